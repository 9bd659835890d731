//! Rollout and rewards files that are compressed: gzip and zstd, read by what they begin with, written by their name.
//!
//! The invariant: an output is whole once [`Encoder::finish`] has returned, and a reader sees where one that is not breaks off.

use std::io::{self, BufRead, BufReader, Cursor, Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

/// What a file of each kind begins with (RFC 1952, RFC 8878).
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Bytes that are read at a time.
const BUFFER: usize = 1 << 16;

/// Reads text, compressed or not. Nothing is read before it is asked for: a pipe may have nothing yet.
pub struct Decoder<R> {
    input: Option<R>,
    text: Box<dyn BufRead + Send>,
}

impl<R: Read + Send + 'static> Decoder<R> {
    /// Decides by the first bytes of `input` how to read it.
    pub fn new(input: R) -> Self {
        Self { input: Some(input), text: Box::new(io::empty()) }
    }

    fn begin(&mut self) -> io::Result<()> {
        let Some(mut input) = self.input.take() else { return Ok(()) };
        let mut head = Vec::with_capacity(ZSTD.len());
        input.by_ref().take(ZSTD.len() as u64).read_to_end(&mut head)?;
        let (gzip, zstd) = (head.starts_with(GZIP), head.starts_with(ZSTD));
        let all = BufReader::with_capacity(BUFFER, Cursor::new(head).chain(input));
        self.text = if gzip {
            Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(all)))
        } else if zstd {
            Box::new(BufReader::with_capacity(BUFFER, zstd::Decoder::with_buffer(all)?))
        } else {
            Box::new(all)
        };
        Ok(())
    }
}

impl<R: Read + Send + 'static> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.begin()?;
        self.text.read(buffer)
    }
}

impl<R: Read + Send + 'static> BufRead for Decoder<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.begin()?;
        self.text.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.text.consume(bytes);
    }
}

/// Whether a file's first bytes say that it is compressed. The file is then where it was.
pub fn is_compressed(file: &mut (impl Read + io::Seek)) -> io::Result<bool> {
    let mut head = Vec::with_capacity(ZSTD.len());
    file.take(ZSTD.len() as u64).read_to_end(&mut head)?;
    file.rewind()?;
    Ok(head.starts_with(GZIP) || head.starts_with(ZSTD))
}

/// Whether a file of this name is to be compressed.
pub fn is_named_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "gz" || ending == "zst")
}

/// Writes text as a file's name asks for: `.gz`, `.zst`, or as it is.
pub enum Encoder<W: Write> {
    /// As it is.
    Plain(W),
    /// RFC 1952.
    Gzip(GzEncoder<W>),
    /// RFC 8878.
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// For a file of this name.
    pub fn new(path: &Path, output: W) -> io::Result<Self> {
        Ok(match path.extension().and_then(|ending| ending.to_str()) {
            Some("gz") => Self::Gzip(GzEncoder::new(output, Compression::default())),
            Some("zst") => Self::Zstd(zstd::Encoder::new(output, zstd::DEFAULT_COMPRESSION_LEVEL)?),
            _ => Self::Plain(output),
        })
    }

    /// Writes what stands at the end of such a file. Nothing is to be written afterwards.
    pub fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(output) => output.flush(),
            Self::Gzip(encoder) => encoder.try_finish().and_then(|()| encoder.get_mut().flush()),
            Self::Zstd(encoder) => encoder.do_finish().and_then(|()| encoder.get_mut().flush()),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(output) => output.write(text),
            Self::Gzip(encoder) => encoder.write(text),
            Self::Zstd(encoder) => encoder.write(text),
        }
    }

    /// A reader can decode all that has been written.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(output) => output.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "{\"text\":\"one\"}\n{\"text\":\"two\"}\n";

    fn encoded(name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(Path::new(name), &mut bytes).unwrap();
        for line in TEXT.split_inclusive('\n') {
            encoder.write_all(line.as_bytes()).unwrap();
            encoder.flush().unwrap();
        }
        encoder.finish().unwrap();
        drop(encoder);
        bytes
    }

    fn decoded(bytes: Vec<u8>) -> io::Result<String> {
        let mut text = String::new();
        Decoder::new(Cursor::new(bytes)).read_to_string(&mut text).map(|_| text)
    }

    #[test]
    fn what_is_written_by_a_name_is_read_by_its_first_bytes() {
        for name in ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"] {
            let bytes = encoded(name);
            assert_eq!(
                is_compressed(&mut Cursor::new(&bytes)).unwrap(),
                is_named_compressed(Path::new(name)),
                "{name}"
            );
            assert_eq!(decoded(bytes.clone()).unwrap(), TEXT, "{name}");
            // Files that were put one behind the other.
            assert_eq!(decoded([&bytes[..], &bytes[..]].concat()).unwrap(), TEXT.repeat(2), "{name}");
        }
        assert_eq!(decoded(Vec::new()).unwrap(), "");
        assert_eq!(decoded(b"{}".to_vec()).unwrap(), "{}");
    }

    #[test]
    fn a_file_that_breaks_off_is_an_error() {
        for name in ["a.gz", "a.zst"] {
            let mut bytes = encoded(name);
            bytes.truncate(bytes.len() - 3);
            assert!(decoded(bytes).is_err(), "{name}");
        }
    }
}
