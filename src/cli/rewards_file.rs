//! The rewards file: one answer per line, in the order of the rollout file.

use std::io::{self, Write};

use crate::engine::ModelCard;
use crate::json::rewards::Answer;
use crate::reward::Outcome;

/// Writes the answer to one line of the rollout file, whose `number` finds a rollout that has no id.
pub fn write(
    output: &mut impl Write,
    card: &ModelCard,
    id: Option<&str>,
    number: u64,
    outcome: &Outcome,
) -> io::Result<()> {
    Answer { card, id, line: Some(number), outcome }.write(&mut *output)?;
    output.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EchoEngine, Engine as _};
    use crate::reward::{Code, Rejection};

    #[test]
    fn an_answer_is_a_line() {
        let mut output = Vec::new();
        let rejection = Err(Rejection::new(Code::TooLong, "too\nlong"));
        for id in [Some("a"), None] {
            write(&mut output, EchoEngine::new(8).card(), id, 12, &rejection).unwrap();
        }
        let expected = "{\"id\":\"a\",\"error\":{\"code\":\"TOO_LONG\",\"message\":\"too\\nlong\"}}\n\
                        {\"id\":null,\"line\":12,\"error\":{\"code\":\"TOO_LONG\",\"message\":\"too\\nlong\"}}\n";
        assert_eq!(String::from_utf8(output).unwrap(), expected);
    }
}
