//! The rewards file: one answer per row, in the order of the rollout file.

use std::io::{self, Write};

use arrow_array::RecordBatch;

use super::compression::Encoder;
use crate::engine::ModelCard;
use crate::json::rewards::{Answer, PairAnswer};
use crate::json::row::ExtraField;
use crate::reward::Outcome;

/// The answer to one row.
pub struct RowAnswer {
    /// The row's id, as far as it has one.
    pub id: Option<String>,
    /// The row's number, which finds a row that has no id.
    pub number: u64,
    /// Whether the row was one of a preference file.
    pub is_pair: bool,
    /// What became of it.
    pub outcome: RowOutcome,
    /// What the row had beside its rollouts.
    pub extra: Vec<ExtraField>,
    /// Of a Parquet file: the rows that were read together with it, and its index there.
    pub batch: Option<(RecordBatch, usize)>,
}

/// What became of a row.
pub enum RowOutcome {
    /// Of one rollout, or of a row that could not be read.
    One(Outcome),
    /// Of a pair.
    Pair {
        /// Of the preferred rollout.
        chosen: Outcome,
        /// Of the other one.
        rejected: Outcome,
    },
}

/// Takes answers in the order of the rows.
pub trait RewardsFile: Send {
    /// Adds an answer.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    fn write(&mut self, card: &ModelCard, answer: RowAnswer) -> io::Result<()>;

    /// Nothing more is at hand for now: passes on what has been written, where the format lets somebody read it.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    fn flush(&mut self) -> io::Result<()>;

    /// All answers have been added.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    fn finish(&mut self, card: &ModelCard) -> io::Result<()>;
}

/// JSON Lines.
pub struct JsonLines<W: Write> {
    output: Encoder<W>,
    line: Vec<u8>,
}

impl<W: Write> JsonLines<W> {
    /// Writes them to here.
    pub fn new(output: Encoder<W>) -> Self {
        Self { output, line: Vec::new() }
    }
}

impl<W: Write + Send> RewardsFile for JsonLines<W> {
    fn write(&mut self, card: &ModelCard, answer: RowAnswer) -> io::Result<()> {
        self.line.clear();
        let id = answer.id.as_deref();
        match &answer.outcome {
            RowOutcome::One(outcome) => {
                Answer { card, id, line: Some(answer.number), outcome }.write(&mut self.line)?;
            }
            RowOutcome::Pair { chosen, rejected } => {
                // A pair that was read has an id.
                PairAnswer { card, id: id.unwrap_or_default(), chosen, rejected }.write(&mut self.line)?;
            }
        }
        if !answer.extra.is_empty() {
            // Before the object's end. The values were JSON on one line and are not read.
            self.line.pop();
            for field in &answer.extra {
                self.line.push(b',');
                serde_json::to_writer(&mut self.line, &field.name)?;
                self.line.push(b':');
                self.line.extend_from_slice(field.value.get().as_bytes());
            }
            self.line.push(b'}');
        }
        self.line.push(b'\n');
        self.output.write_all(&self.line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    fn finish(&mut self, _: &ModelCard) -> io::Result<()> {
        self.output.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EchoEngine, Engine as _};
    use crate::reward::{Code, Rejection};

    #[test]
    fn an_answer_is_a_line() {
        let mut file = JsonLines::new(Encoder::Plain(Vec::new()));
        let raw = |json: &str| serde_json::value::RawValue::from_string(json.into()).unwrap();
        for id in [Some("a"), None] {
            let answer = RowAnswer {
                id: id.map(str::to_owned),
                number: 12,
                is_pair: false,
                outcome: RowOutcome::One(Err(Rejection::new(Code::TooLong, "too\nlong"))),
                extra: id.map(|_| ExtraField { name: "x\"".into(), value: raw("[1.0, 1e400]") }).into_iter().collect(),
                batch: None,
            };
            file.write(EchoEngine::new(8).card(), answer).unwrap();
        }
        let expected = "{\"id\":\"a\",\"error\":{\"code\":\"TOO_LONG\",\"message\":\"too\\nlong\"},\"x\\\"\":[1.0, 1e400]}\n\
                        {\"id\":null,\"line\":12,\"error\":{\"code\":\"TOO_LONG\",\"message\":\"too\\nlong\"}}\n";
        let Encoder::Plain(written) = file.output else { panic!("it was compressed") };
        assert_eq!(String::from_utf8(written).unwrap(), expected);
    }
}
