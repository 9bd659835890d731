//! Parquet files of rollouts and rewards. A row is read as the JSON object that would stand for it in JSON Lines, so both
//! formats mean the same; columns that are kept go from table to table as they are.

mod extra;
mod reader;
mod schema;
mod to_json;
mod writer;

pub use self::reader::Reader;
pub use self::schema::{Destination, Layout};
pub use self::writer::Writer;

#[cfg(test)]
mod tests;
