//! Writes the rewards file as Parquet: one column for each field of an answer, those of an object with its name in front.

use std::io::{self, Write};
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Float32Array, Float64Array, RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::extra;
use super::schema::Layout;
use crate::cli::rewards_file::{RewardsFile, RowAnswer, RowOutcome};
use crate::engine::ModelCard;
use crate::json::rewards::{margin, reads};
use crate::json::row::ExtraField;
use crate::reward::Outcome;

/// Answers that are gathered before a part of the file is written.
const PART_ROWS: usize = 1024;

/// A rewards file.
pub struct Writer {
    output: Option<Box<dyn Write + Send>>,
    file: Option<ArrowWriter<Box<dyn Write + Send>>>,
    /// The columns' kinds, where they are known from the start. Otherwise nothing is written before the last answer.
    layout: Option<Layout>,
    part: Part,
}

/// Answers that are not written yet.
#[derive(Default)]
struct Part {
    seen: Layout,
    ids: Vec<Option<String>>,
    lines: Vec<Option<u64>>,
    one: Rollouts,
    chosen: Rollouts,
    rejected: Rollouts,
    margins: Vec<Option<f64>>,
    extra: Vec<Vec<ExtraField>>,
    batch: Option<RecordBatch>,
}

/// The columns of a rollout's answers.
#[derive(Default)]
struct Rollouts {
    rewards: Vec<Option<f32>>,
    attributes: Vec<Vec<f32>>,
    tokens: Vec<Option<u32>>,
    truncated: Vec<Option<bool>>,
    versions: Vec<Option<String>>,
    reads: Vec<Option<String>>,
    codes: Vec<Option<&'static str>>,
    messages: Vec<Option<String>>,
}

impl Writer {
    /// Writes to here. `layout` is what the rows are: `None` where that (and the types of kept fields) shows only when all
    /// have been read, as in JSON Lines; then the answers are held in memory until the last one.
    pub fn new(output: Box<dyn Write + Send>, layout: Option<Layout>) -> Self {
        Self { output: Some(output), file: None, layout, part: Part::default() }
    }

    fn write_part(&mut self, card: &ModelCard) -> io::Result<()> {
        let part = std::mem::take(&mut self.part);
        let layout = self.layout.unwrap_or(Layout { one: part.seen.one || !part.seen.pair, ..part.seen });
        let batch = part.batch(card, layout)?;
        if self.file.is_none()
            && let Some(output) = self.output.take()
        {
            let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
            self.file = Some(ArrowWriter::try_new(output, batch.schema(), Some(properties))?);
        }
        self.file.as_mut().expect("it was opened above, or by an earlier part").write(&batch)?;
        Ok(())
    }
}

impl RewardsFile for Writer {
    fn write(&mut self, card: &ModelCard, answer: RowAnswer) -> io::Result<()> {
        // Rows of one batch of the input stay together, since its columns are taken over as they are.
        let full = match answer.batch {
            Some((_, index)) => index == 0,
            None => self.part.ids.len() >= PART_ROWS,
        };
        if full && self.layout.is_some() && !self.part.ids.is_empty() {
            self.write_part(card)?;
        }
        self.part.add(card, answer);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        // Nobody can read a Parquet file before its end.
        Ok(())
    }

    fn finish(&mut self, card: &ModelCard) -> io::Result<()> {
        // A file without a row has its columns, too.
        if self.file.is_none() || !self.part.ids.is_empty() {
            self.write_part(card)?;
        }
        match self.file.take() {
            Some(file) => file.into_inner()?.flush(),
            None => Ok(()),
        }
    }
}

impl Part {
    fn add(&mut self, card: &ModelCard, answer: RowAnswer) {
        let RowAnswer { id, number, is_pair, outcome, extra, batch } = answer;
        self.lines.push(id.is_none().then_some(number));
        self.ids.push(id);
        self.extra.push(extra);
        if let Some((batch, _)) = batch {
            self.batch.get_or_insert(batch);
        }
        self.seen.pair |= is_pair;
        match outcome {
            RowOutcome::One(outcome) => {
                self.seen.one |= outcome.is_ok();
                self.one.add(card, Some(&outcome));
                self.chosen.add(card, None);
                self.rejected.add(card, None);
                self.margins.push(None);
            }
            RowOutcome::Pair { chosen, rejected } => {
                self.one.add(card, None);
                self.chosen.add(card, Some(&chosen));
                self.rejected.add(card, Some(&rejected));
                self.margins.push(margin(&chosen, &rejected));
            }
        }
    }

    fn batch(self, card: &ModelCard, layout: Layout) -> io::Result<RecordBatch> {
        let mut columns: Vec<(String, ArrayRef)> = vec![("id".into(), Arc::new(StringArray::from(self.ids)))];
        // Of a pair that could not be read the error stands here as well.
        self.one.columns(card, "", layout.one, &mut columns);
        if layout.pair {
            self.chosen.columns(card, "chosen.", true, &mut columns);
            self.rejected.columns(card, "rejected.", true, &mut columns);
            columns.push(("margin".into(), Arc::new(Float64Array::from(self.margins))));
        }
        columns.push(("line".into(), Arc::new(UInt64Array::from(self.lines))));
        if let Some(batch) = self.batch {
            let schema = batch.schema();
            let names = schema.fields().iter().map(|field| field.name().clone());
            columns.extend(names.zip(batch.columns().iter().cloned()));
        }
        columns.extend(extra::columns(&self.extra));
        // Every column may have nulls, whatever this part has, so that all parts have one schema.
        let columns = columns.into_iter().map(|(name, column)| (name, column, true));
        RecordBatch::try_from_iter_with_nullable(columns).map_err(io::Error::other)
    }
}

impl Rollouts {
    fn add(&mut self, card: &ModelCard, outcome: Option<&Outcome>) {
        let rewards = outcome.and_then(|outcome| outcome.as_ref().ok());
        let rejection = outcome.and_then(|outcome| outcome.as_ref().err());
        self.rewards.push(rewards.map(|rewards| rewards.reward));
        self.attributes.push(rewards.map(|rewards| rewards.attributes.clone()).unwrap_or_default());
        self.tokens.push(rewards.map(|rewards| rewards.tokens));
        self.truncated.push(rewards.map(|rewards| rewards.truncated));
        self.versions.push(rewards.map(|rewards| rewards.model_version.to_string()));
        self.reads.push(rewards.and_then(|rewards| reads(card, rewards)));
        self.codes.push(rejection.map(|rejection| rejection.code.name()));
        self.messages.push(rejection.map(|rejection| rejection.message.clone()));
    }

    /// Adds the columns; those of an error alone where no row can have rewards.
    fn columns(self, card: &ModelCard, prefix: &str, rewards: bool, columns: &mut Vec<(String, ArrayRef)>) {
        let mut add = |name: &str, column: ArrayRef| columns.push((format!("{prefix}{name}"), column));
        if rewards {
            add("reward", Arc::new(Float32Array::from(self.rewards)));
            for (at, name) in card.attributes.iter().enumerate() {
                let values: Float32Array = self.attributes.iter().map(|values| values.get(at).copied()).collect();
                add(&format!("attributes.{name}"), Arc::new(values));
            }
            add("tokens", Arc::new(UInt32Array::from(self.tokens)));
            add("truncated", Arc::new(BooleanArray::from(self.truncated)));
            add("model_version", Arc::new(StringArray::from(self.versions)));
            add("reads", Arc::new(StringArray::from(self.reads)));
        }
        add("error.code", Arc::new(StringArray::from(self.codes)));
        add("error.message", Arc::new(StringArray::from(self.messages)));
    }
}
