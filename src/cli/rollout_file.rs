//! The rollout file: rows, each of which is a JSON object as [`crate::json::row`] has it. A bad row never costs another
//! row anything: it becomes a rejection that names its place.

use std::fmt;
use std::io::{self, BufRead};

use arrow_array::RecordBatch;

use super::lines::Lines;
use crate::json::rollout::RolloutError;
use crate::json::row::{self, Content, ExtraColumns, ExtraField};
use crate::limits::MAX_MESSAGE_BYTES;
use crate::reward::{Code, Rejection};
use crate::rollout::Rollout;

/// Where rows come from.
pub trait Rows: Send {
    /// The next row; `None` at the end of the input.
    ///
    /// # Errors
    ///
    /// The input cannot be read on.
    fn next(&mut self) -> io::Result<Option<RawRow>>;
}

/// One row, not parsed yet.
pub struct RawRow {
    /// Where it stands.
    pub place: Place,
    /// How much of the input lies before or in it, in bytes (in a Parquet file: as if all rows were of one size).
    pub consumed: u64,
    /// A JSON object, or why there is none.
    pub json: Result<Vec<u8>, Rejection>,
    /// Of a Parquet file: the rows that were read together with it, and its index there.
    pub batch: Option<(RecordBatch, usize)>,
}

/// Where a row stands in its file, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In JSON Lines.
    Line(u64),
    /// In a table.
    Row(u64),
}

impl Place {
    /// The number.
    pub fn number(self) -> u64 {
        let (Self::Line(number) | Self::Row(number)) = self;
        number
    }

    /// What a place is called.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Line(_) => "line",
            Self::Row(_) => "row",
        }
    }

    fn rejection(self, error: RolloutError) -> Rejection {
        match (self, error) {
            (Self::Line(number), error) => error.in_line(number),
            // The JSON was made of the row: a place in it says nothing.
            (Self::Row(_), RolloutError::Malformed { code, what, .. }) => {
                Rejection::new(code, format!("{what} ({self})"))
            }
            (Self::Row(_), error) => error.into(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.unit(), self.number())
    }
}

/// Rows of JSON Lines, of at most [`MAX_MESSAGE_BYTES`] each.
pub struct JsonLines<R>(Lines<R>);

impl<R: BufRead> JsonLines<R> {
    /// Reads them from here.
    pub fn new(input: R) -> Self {
        Self(Lines::new(input, MAX_MESSAGE_BYTES))
    }
}

impl<R: BufRead + Send> Rows for JsonLines<R> {
    fn next(&mut self) -> io::Result<Option<RawRow>> {
        let Some(line) = self.0.next()? else { return Ok(None) };
        let json = line.bytes.ok_or_else(|| {
            let message = format!("line {}: longer than {MAX_MESSAGE_BYTES} bytes", line.number);
            Rejection::new(Code::TooLong, message)
        });
        Ok(Some(RawRow { place: Place::Line(line.number), consumed: line.consumed, json, batch: None }))
    }
}

/// A parsed row.
pub struct Row {
    /// The row's id, as far as it has one: its own, or its number.
    pub id: Option<String>,
    /// Whether it is one of a preference file, as far as it was read.
    pub is_pair: bool,
    /// What is to be scored, or what is wrong with the row.
    pub content: Result<Content, Rejection>,
    /// What the row has beside that, where it is kept.
    pub extra: Vec<ExtraField>,
}

/// Parses a row.
pub fn parse(json: &Result<Vec<u8>, Rejection>, place: Place, extra_columns: ExtraColumns) -> Row {
    let json = match json {
        Ok(json) => json,
        Err(rejection) => {
            return Row { id: None, is_pair: false, content: Err(rejection.clone()), extra: Vec::new() };
        }
    };
    let row::Row { id, is_pair, content, extra } = row::parse(json, extra_columns, Some(&place.number().to_string()));
    let hint = shape_hint(json, place);
    let rejected = |error| {
        let mut rejection = place.rejection(error);
        rejection.message += hint;
        rejection
    };
    Row { id, is_pair, content: content.map_err(rejected), extra }
}

/// What to do about a file that is JSON, but not a row a line.
fn shape_hint(line: &[u8], place: Place) -> &'static str {
    match (place, line.trim_ascii()) {
        (Place::Line(_), b"{") => "; a row is one line: jq -c . FILE makes lines of printed JSON",
        (Place::Line(_), [b'[', ..]) => {
            "; a row is an object on a line of its own: jq -c '.[]' FILE makes lines of an array"
        }
        _ => "",
    }
}

/// Parses the `number`th line of a file that has no pairs.
pub fn parse_rollout(line: &[u8], number: u64) -> Result<Rollout, Rejection> {
    match parse(&Ok(line.to_owned()), Place::Line(number), ExtraColumns::Refuse).content? {
        Content::One(rollout) => Ok(*rollout),
        Content::Pair { .. } => {
            let message = format!("line {number}: chosen and rejected are two rollouts; give one on each line");
            Err(Rejection::new(Code::Malformed, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_names_the_place() {
        let message =
            |json: &[u8], place| parse(&Ok(json.to_owned()), place, ExtraColumns::Refuse).content.unwrap_err().message;
        assert!(message(b"hello", Place::Line(7)).ends_with("(line 7, column 1)"));
        assert_eq!(message(b"\xff", Place::Line(7)), "line 7: not valid UTF-8 at byte 1");
        assert!(message(b"{\"text\":5}", Place::Row(7)).ends_with("(row 7)"));
        assert!(
            parse_rollout(b"{\"chosen\":\"a\",\"rejected\":\"b\"}", 7)
                .unwrap_err()
                .message
                .starts_with("line 7: chosen")
        );
    }

    #[test]
    fn json_that_is_no_lines_is_told_what_makes_lines_of_it() {
        let message = |json: &[u8]| {
            parse(&Ok(json.to_owned()), Place::Line(1), ExtraColumns::Refuse).content.unwrap_err().message
        };
        assert!(message(b"[").ends_with("jq -c '.[]' FILE makes lines of an array"), "{}", message(b"["));
        assert!(message(b"[{\"text\":\"t\"}]").contains("jq -c '.[]'"));
        assert!(message(b"{").ends_with("jq -c . FILE makes lines of printed JSON"));
        assert!(!message(b"  \"text\": 5").contains("jq"));
    }

    #[test]
    fn a_line_may_be_too_long() {
        let input = [&vec![b' '; MAX_MESSAGE_BYTES][..], b"x\n{\"text\":\"t\"}"].concat();
        let mut rows = JsonLines::new(&input[..]);
        let long = rows.next().unwrap().unwrap().json.unwrap_err();
        assert_eq!((long.code, &long.message[..16]), (Code::TooLong, "line 1: longer t"));
        let row = rows.next().unwrap().unwrap();
        assert_eq!(parse(&row.json, row.place, ExtraColumns::Refuse).id.as_deref(), Some("2"));
    }
}
