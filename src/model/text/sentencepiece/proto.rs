//! The fields of a SentencePiece model file that decide how text is cut, out of their protobuf encoding.
//!
//! Messages and field numbers: `src/sentencepiece_model.proto` of SentencePiece. The model room knows no protobuf library;
//! what is needed of the encoding are numbers, lengths and skipping the rest.

/// What a piece is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Byte,
    Unused,
}

/// A piece of the vocabulary; its id is its place.
#[derive(Debug, Clone)]
pub struct Piece<'a> {
    pub text: &'a str,
    pub score: f32,
    pub kind: Kind,
}

/// How a text is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Unigram,
    Bpe,
    /// By its number: words or characters.
    Other(u64),
}

/// A model.
#[derive(Debug, Clone)]
pub struct Model<'a> {
    pub pieces: Vec<Piece<'a>>,
    pub algorithm: Algorithm,
    pub byte_fallback: bool,
    pub whitespace_as_suffix: bool,
    /// Ids of the unknown piece and of the special ones; below zero if there is none.
    pub unk_id: i64,
    pub bos_id: i64,
    pub eos_id: i64,
    pub pad_id: i64,
    /// Name of the rules that characters are rewritten by.
    pub normalization: &'a str,
    /// The rules; empty if none.
    pub charsmap: &'a [u8],
    pub add_dummy_prefix: bool,
    pub remove_extra_whitespaces: bool,
    pub escape_whitespaces: bool,
}

impl<'a> Model<'a> {
    /// Reads a file; the error is a sentence without the file's name.
    pub fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let read = |e: &str| format!("is not a SentencePiece model: {e}");
        // The defaults are those of the messages.
        let mut model = Self {
            pieces: Vec::new(),
            algorithm: Algorithm::Unigram,
            byte_fallback: false,
            whitespace_as_suffix: false,
            unk_id: 0,
            bos_id: 1,
            eos_id: 2,
            pad_id: -1,
            normalization: "",
            charsmap: &[],
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        };
        for field in Fields(bytes) {
            match field.map_err(read)? {
                (1, Field::Bytes(piece)) => model.pieces.push(Piece::read(piece).map_err(read)?),
                (2, Field::Bytes(trainer)) => model.trainer(trainer).map_err(read)?,
                (3, Field::Bytes(normalizer)) => model.normalizer(normalizer).map_err(read)?,
                _ => {}
            }
        }
        if model.pieces.is_empty() {
            Err("is not a SentencePiece model: there are no pieces in it".into())
        } else {
            Ok(model)
        }
    }

    fn trainer(&mut self, bytes: &'a [u8]) -> Result<(), &'static str> {
        for field in Fields(bytes) {
            let (number, Field::Number(value)) = field? else { continue };
            match number {
                3 => {
                    self.algorithm = match value {
                        1 => Algorithm::Unigram,
                        2 => Algorithm::Bpe,
                        other => Algorithm::Other(other),
                    }
                }
                24 => self.whitespace_as_suffix = value != 0,
                35 => self.byte_fallback = value != 0,
                // A signed 32-bit number is written as one of 64 bits.
                40 => self.unk_id = value as i64,
                41 => self.bos_id = value as i64,
                42 => self.eos_id = value as i64,
                43 => self.pad_id = value as i64,
                _ => {}
            }
        }
        Ok(())
    }

    fn normalizer(&mut self, bytes: &'a [u8]) -> Result<(), &'static str> {
        for field in Fields(bytes) {
            match field? {
                (1, Field::Bytes(name)) => self.normalization = str::from_utf8(name).unwrap_or_default(),
                (2, Field::Bytes(charsmap)) => self.charsmap = charsmap,
                (3, Field::Number(value)) => self.add_dummy_prefix = value != 0,
                (4, Field::Number(value)) => self.remove_extra_whitespaces = value != 0,
                (5, Field::Number(value)) => self.escape_whitespaces = value != 0,
                _ => {}
            }
        }
        Ok(())
    }
}

impl<'a> Piece<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let mut piece = Self { text: "", score: 0.0, kind: Kind::Normal };
        for field in Fields(bytes) {
            match field? {
                (1, Field::Bytes(text)) => piece.text = str::from_utf8(text).map_err(|_| "a piece is no UTF-8")?,
                (2, Field::Four(score)) => piece.score = f32::from_le_bytes(score),
                (3, Field::Number(kind)) => {
                    piece.kind = match kind {
                        1 => Kind::Normal,
                        2 => Kind::Unknown,
                        3 => Kind::Control,
                        4 => Kind::UserDefined,
                        5 => Kind::Unused,
                        6 => Kind::Byte,
                        _ => return Err("a piece is of an unknown type"),
                    }
                }
                _ => {}
            }
        }
        Ok(piece)
    }
}

/// A field's value.
enum Field<'a> {
    Number(u64),
    Four([u8; 4]),
    Eight,
    Bytes(&'a [u8]),
}

/// The fields of a message, with their numbers, in order.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Field<'a>), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Result<(u64, Field<'a>), &'static str> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Field::Number(self.varint()?),
            1 => self.take(8).map(|_| Field::Eight)?,
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| "a length is beyond memory")?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Four(self.take(4)?.try_into().expect("take gives as many bytes as asked for")),
            _ => return Err("a field is of an unknown type"),
        };
        Ok((key >> 3, value))
    }

    fn varint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number is longer than 64 bits")
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or("it ends in the middle")?;
        self.0 = rest;
        Ok(taken)
    }
}
