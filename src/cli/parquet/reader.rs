//! Reads a Parquet file of rollouts row by row.

use std::fs::File;
use std::io;

use arrow_array::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::Compression;
use parquet::file::metadata::ParquetMetaData;

use super::schema::{self, Destination, Layout};
use super::to_json;
use crate::cli::rollout_file::{Place, RawRow, Rows};
use crate::json::row::ExtraColumns;
use crate::limits::MAX_MESSAGE_BYTES;
use crate::reward::{Code, Rejection};

/// Rows that are decoded at a time.
const BATCH_ROWS: usize = 1024;

/// The rows of a file whose columns have been checked.
pub struct Reader {
    batches: ParquetRecordBatchReader,
    /// Names of the columns that are a rollout's or become JSON, by their index among those that are read.
    fields: Vec<(String, usize)>,
    /// Columns that go to the rewards file as they are.
    kept: Vec<usize>,
    layout: Layout,
    batch: RecordBatch,
    next: usize,
    number: u64,
    rows: u64,
    bytes: u64,
}

impl Reader {
    /// Opens a file, or says what is wrong with it: with which column, and its type.
    pub fn open(file: File, extra_columns: ExtraColumns, destination: Destination) -> Result<Self, String> {
        let bytes = file.metadata().map_err(|e| e.to_string())?.len();
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| format!("no Parquet file: {e}"))?;
        let schema::Columns { own, kept, layout } = schema::columns(builder.schema(), extra_columns, destination)?;
        let mut read = [&own[..], &kept[..]].concat();
        read.sort_unstable();
        let name = |column: usize| builder.schema().field(column).name().as_str();
        let names: Vec<&str> = read.iter().map(|&column| name(column)).collect();
        check_compression(builder.metadata(), &names)?;
        let index = |column: &usize| read.partition_point(|other| other < column);
        let mut fields: Vec<_> = own.iter().map(|column| (name(*column).to_owned(), index(column))).collect();
        let mut as_they_are = Vec::new();
        match destination {
            Destination::JsonLines => {
                fields.extend(kept.iter().map(|column| (name(*column).to_owned(), index(column))));
            }
            Destination::Parquet => as_they_are.extend(kept.iter().map(index)),
        }
        let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or_default();
        let mask = ProjectionMask::roots(builder.parquet_schema(), read.iter().copied());
        let batches = builder
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS)
            .build()
            .map_err(|e| format!("cannot be read: {e}"))?;
        let batch = RecordBatch::new_empty(std::sync::Arc::new(arrow_schema::Schema::empty()));
        Ok(Self { batches, fields, kept: as_they_are, layout, batch, next: 0, number: 0, rows, bytes })
    }

    /// What its rows are.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    fn json(&self, place: Place) -> Result<Vec<u8>, Rejection> {
        let mut json = Vec::new();
        let values =
            self.fields.iter().map(|(name, column)| (name.as_str(), (self.batch.column(*column).as_ref(), self.next)));
        to_json::object(values, &mut json)
            .map_err(|error| Rejection::new(Code::Malformed, format!("{error} ({place})")))?;
        if json.len() > MAX_MESSAGE_BYTES {
            let message = format!("{place}: longer than {MAX_MESSAGE_BYTES} bytes as JSON");
            return Err(Rejection::new(Code::TooLong, message));
        }
        Ok(json)
    }
}

impl Rows for Reader {
    fn next(&mut self) -> io::Result<Option<RawRow>> {
        while self.next == self.batch.num_rows() {
            match self.batches.next() {
                None => return Ok(None),
                Some(batch) => self.batch = batch.map_err(io::Error::other)?,
            }
            self.next = 0;
        }
        self.number += 1;
        let place = Place::Row(self.number);
        let json = self.json(place);
        // A row group may be of any size: rows are taken to be of one.
        let consumed = (self.bytes as f64 * self.number as f64 / self.rows.max(1) as f64) as u64;
        let batch = match self.kept.as_slice() {
            [] => None,
            kept => Some((self.batch.project(kept).map_err(io::Error::other)?, self.next)),
        };
        self.next += 1;
        Ok(Some(RawRow { place, consumed, json, batch }))
    }
}

/// Parquet is read with snappy or without compression alone: what else there is would be code for files that few write.
fn check_compression(metadata: &ParquetMetaData, names: &[&str]) -> Result<(), String> {
    for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
        let name = column.column_path().parts().first().map_or("", String::as_str);
        if names.contains(&name) && !matches!(column.compression(), Compression::UNCOMPRESSED | Compression::SNAPPY) {
            return Err(format!(
                "column {name}: compressed with {}; write the file with snappy (pyarrow: compression=\"snappy\") or \
                 without compression",
                column.compression()
            ));
        }
    }
    Ok(())
}
