//! The rollout file: one JSON object per line, as [`crate::json::rollout`] has it. A bad line never costs another line
//! anything: it becomes a rejection that names the line.

use super::lines::Line;
use crate::json::rollout;
use crate::limits::MAX_MESSAGE_BYTES;
use crate::reward::{Code, Rejection};
use crate::rollout::Rollout;

/// A parsed line.
#[derive(Debug, PartialEq)]
pub struct Parsed {
    /// The rollout's id, as far as the line has one.
    pub id: Option<String>,
    /// The rollout, or what is wrong with the line.
    pub rollout: Result<Rollout, Rejection>,
}

/// Parses the `number`th line of a file.
pub fn parse(line: &[u8], number: u64) -> Parsed {
    let rollout::Parsed { id, rollout } = rollout::parse(line);
    Parsed { id, rollout: rollout.map_err(|error| error.in_line(number)) }
}

/// Parses a line of a file that is read with lines of at most [`MAX_MESSAGE_BYTES`].
pub fn parse_line(line: &Line) -> Parsed {
    match &line.bytes {
        Some(bytes) => parse(bytes, line.number),
        None => {
            let message = format!("line {}: longer than {MAX_MESSAGE_BYTES} bytes", line.number);
            Parsed { id: None, rollout: Err(Rejection::new(Code::TooLong, message)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_names_the_line() {
        let message = |line: &[u8]| parse(line, 7).rollout.unwrap_err().message;
        assert!(message(b"hello").ends_with("(line 7, column 1)"));
        assert_eq!(message(b"\xff"), "line 7: not valid UTF-8 at byte 1");
        let too_long = parse_line(&Line { number: 7, consumed: 9, bytes: None }).rollout.unwrap_err();
        assert_eq!((too_long.code, &too_long.message[..16]), (Code::TooLong, "line 7: longer t"));
    }
}
