//! Tests of tables: from columns to rows, and from answers to columns.

use std::fs::File;
use std::sync::{Arc, Mutex};

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float32Type, Int64Type, UInt32Type};
use arrow_array::{Array, ArrayRef, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray};
use arrow_schema::DataType;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;
use crate::cli::rewards_file::{RewardsFile as _, RowAnswer, RowOutcome};
use crate::cli::rollout_file::{self, Rows as _};
use crate::engine::{EchoEngine, Engine as _};
use crate::json::row::{Content, ExtraColumns, ExtraField};
use crate::reward::{Code, Outcome, Rejection, Rewards};
use crate::rollout::{Input, Message};

/// Written by pyarrow; see tools/make_parquet.py, which says what is in it.
const ROLLOUTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/parquet/rollouts.parquet");
const CONVERSATIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/parquet/conversations.parquet");
const PAIRS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/parquet/pairs.parquet");

fn table(columns: Vec<(&str, ArrayRef)>) -> File {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    let mut writer = ArrowWriter::try_new(&mut file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    file
}

fn texts(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn rows(file: File, extra_columns: ExtraColumns, to: Destination) -> Vec<rollout_file::Row> {
    let mut reader = Reader::open(file, extra_columns, to).unwrap();
    let mut rows = Vec::new();
    while let Some(row) = reader.next().unwrap() {
        rows.push(rollout_file::parse(&row.json, row.place, extra_columns));
    }
    rows
}

#[track_caller]
fn refused(columns: Vec<(&str, ArrayRef)>, extra_columns: ExtraColumns, says: &str) {
    let why = Reader::open(table(columns), extra_columns, Destination::JsonLines).err().unwrap();
    assert!(why.contains(says), "{why}");
}

#[test]
fn a_file_of_pyarrow_is_read() {
    let read = rows(File::open(ROLLOUTS).unwrap(), ExtraColumns::Keep, Destination::JsonLines);
    let inputs: Vec<_> = read
        .iter()
        .map(|row| match row.content.as_ref().unwrap() {
            Content::One(rollout) => rollout.input.clone().unwrap(),
            Content::Pair { .. } => panic!(),
        })
        .collect();
    let user = Message::new("user", "What is 2+2?");
    assert_eq!(
        inputs,
        [
            Input::chat([user.clone()], "4."),
            Input::chat([user], "Vier, \u{fc}brigens."),
            Input::TokenIds(vec![1, 2, 3]),
            Input::PromptCompletionIds { prompt: vec![1, 2], completion: vec![] },
            Input::Text("t".into()),
        ]
    );
    let ids: Vec<_> = read.iter().map(|row| row.id.as_deref().unwrap()).collect();
    assert_eq!(ids, ["7", "8", "3", "9007199254740993", "5"]);
    let extra: Vec<_> = read[0].extra.iter().map(|field| (field.name.as_str(), field.value.get())).collect();
    assert_eq!(extra, [("subset", "\"math\""), ("scores", "[0.1,null]"), ("big", "18446744073709551615")]);
    let Content::One(last) = read[4].content.as_ref().unwrap() else { panic!() };
    assert_eq!(last.aggregation.weights, [("attribute-1".to_owned(), 0.5)].into());
}

#[test]
fn pairs_of_pyarrow_are_read() {
    let reader = Reader::open(File::open(PAIRS).unwrap(), ExtraColumns::Ignore, Destination::Parquet).unwrap();
    assert_eq!(reader.layout(), Layout { one: false, pair: true });
    for row in rows(File::open(PAIRS).unwrap(), ExtraColumns::Ignore, Destination::JsonLines) {
        let Content::Pair { chosen, .. } = row.content.unwrap() else { panic!() };
        let Some(Input::Chat { messages, .. }) = chosen.input else { panic!() };
        assert_eq!(messages.len(), 1);
    }
}

/// As the row of JSON Lines that says the same.
#[test]
fn conversations_of_pyarrow_are_read_as_they_are() {
    let question = r#""prompt":[{"content":[{"text":"What is 2+2?","type":"text"}],"role":"user"}]"#;
    let lines = [
        format!(
            "{{{question},\"completion\":[{},{},{}],{}}}",
            r#"{"role":"assistant","tool_calls":[{"function":{"arguments":{"days":2},"name":"add"},"id":"c1"}]}"#,
            r#"{"role":"tool","content":"4","tool_call_id":"c1"}"#,
            r#"{"role":"assistant","content":"4."}"#,
            r#""tools":[{"type":"function","function":{"name":"add"}}],"chat_template_kwargs":{"enable_thinking":false}"#
        ),
        format!(
            "{{{question},\"completion\":[{}],{}}}",
            r#"{"role":"assistant","content":"4."}"#, r#""documents":"[{\"title\": \"Sums\"}]","chat_template":"rag""#
        ),
    ];
    let read = rows(File::open(CONVERSATIONS).unwrap(), ExtraColumns::Refuse, Destination::JsonLines);
    assert_eq!(read.len(), lines.len());
    for (row, line) in read.into_iter().zip(lines) {
        let expected = crate::json::row::parse(line.as_bytes(), ExtraColumns::Refuse, row.id.as_deref());
        assert_eq!(row.content.unwrap(), expected.content.unwrap());
    }
}

#[test]
fn columns_that_do_not_fit_are_named_with_their_type() {
    let numbers: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
    let ids: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>([Some([Some(1.0)])]));
    let text = || texts(&[Some("t")]);
    let refuse = ExtraColumns::Refuse;
    refused(
        vec![("completion", numbers.clone())],
        refuse,
        "column completion: of the type Float64; it must be text, or",
    );
    refused(vec![("input_ids", ids)], refuse, "it must be a list of whole numbers");
    refused(vec![("id", numbers.clone()), ("text", text())], refuse, "column id: of the type Float64");
    refused(vec![("messages", text())], refuse, "column messages: of the type Utf8; it must be a list of messages");
    refused(
        vec![("tools", numbers.clone())],
        refuse,
        "column tools: of the type Float64; it must be a list of structs, or",
    );
    refused(vec![("txet", text())], refuse, "column txet: there is no such field; did you mean text?");
    refused(vec![("text", text()), ("reward", numbers)], ExtraColumns::Keep, "column reward: the rewards file has");
    refused(vec![("text", text()), ("error.code", text())], ExtraColumns::Keep, "column error.code: the rewards file");
    let dates: ArrayRef = Arc::new(arrow_array::Date32Array::from(vec![1]));
    refused(
        vec![("text", text()), ("day", dates.clone())],
        ExtraColumns::Keep,
        "column day: the type Date32 has no form",
    );
    let table = table(vec![("text", text()), ("day", dates)]);
    assert!(Reader::open(table, ExtraColumns::Keep, Destination::Parquet).is_ok());
    let mut none = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut none, b"{}").unwrap();
    assert!(Reader::open(none, refuse, Destination::Parquet).err().unwrap().starts_with("no Parquet file: "));
}

#[test]
fn nulls_are_absent_and_a_bad_row_costs_no_other() {
    let texts = texts(&[Some("t"), None, Some("u")]);
    let deadlines: ArrayRef = Arc::new(Int64Array::from(vec![None, Some(1), Some(-1)]));
    let read =
        rows(table(vec![("text", texts), ("deadline_ms", deadlines)]), ExtraColumns::Refuse, Destination::Parquet);
    let errors: Vec<_> = read.into_iter().map(|row| row.content.err().map(|rejection| rejection.code)).collect();
    assert_eq!(errors, [None, Some(Code::NoInput), Some(Code::Malformed)]);
    let nan: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN, 0.5]));
    let text = self::texts(&[Some("t"), Some("u")]);
    let read = rows(table(vec![("text", text), ("x", nan)]), ExtraColumns::Keep, Destination::JsonLines);
    assert_eq!(read[0].content.as_ref().unwrap_err().message, "x: NaN is no number in JSON (row 1)");
    assert_eq!(read[1].extra[0].value.get(), "0.5");
}

/// An output that can be read after the writer has consumed it.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn rewards(reward: f32) -> Outcome {
    Ok(Rewards {
        reward,
        attributes: vec![reward, 0.25],
        tokens: 57,
        truncated: false,
        model_version: "v1".into(),
        generation: 1,
        queue_ns: 1,
        forward_ns: 2,
        reads: Vec::new(),
        thinking: None,
    })
}

fn answer(number: u64, outcome: RowOutcome) -> RowAnswer {
    let is_pair = matches!(outcome, RowOutcome::Pair { .. });
    RowAnswer { id: Some(number.to_string()), number, is_pair, outcome, extra: Vec::new(), batch: None }
}

/// Writes answers, and reads back what was written.
fn written(layout: Option<Layout>, answers: Vec<RowAnswer>) -> RecordBatch {
    let (engine, output) = (EchoEngine::new(8), Shared::default());
    let mut writer = Writer::new(Box::new(output.clone()), layout);
    for answer in answers {
        writer.write(engine.card(), answer).unwrap();
    }
    writer.finish(engine.card()).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, &output.0.lock().unwrap()).unwrap();
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().with_batch_size(1 << 20);
    let schema = builder.schema().clone();
    builder.build().unwrap().next().map_or_else(|| RecordBatch::new_empty(schema), |batch| batch.unwrap())
}

fn names(batch: &RecordBatch) -> Vec<String> {
    batch.schema().fields().iter().map(|field| field.name().clone()).collect()
}

#[test]
fn answers_are_columns() {
    let rejection = || Err(Rejection::new(Code::TooLong, "too long"));
    let mut kept = answer(1, RowOutcome::One(rewards(1.1)));
    let value = serde_json::value::RawValue::from_string("12".into()).unwrap();
    kept.extra.push(ExtraField { name: "seed".into(), value });
    let unread = RowAnswer { id: None, ..answer(2, RowOutcome::One(rejection())) };
    let batch = written(None, vec![kept, unread]);
    assert_eq!(
        names(&batch),
        [
            "id",
            "reward",
            "attributes.length",
            "attributes.checksum",
            "tokens",
            "truncated",
            "model_version",
            "reads",
            "error.code",
            "error.message",
            "line",
            "seed"
        ]
    );
    let column = |name: &str| batch.column_by_name(name).unwrap();
    let rewards = column("reward").as_primitive::<Float32Type>();
    assert_eq!((rewards.value(0), rewards.is_null(1)), (1.1, true));
    assert_eq!(column("tokens").as_primitive::<UInt32Type>().value(0), 57);
    assert_eq!(column("seed").as_primitive::<Int64Type>().value(0), 12);
    assert_eq!(column("error.code").as_string::<i32>().value(1), "TOO_LONG");
    assert!(column("id").is_null(1) && column("line").is_null(0) && column("line").is_valid(1));
}

#[test]
fn pairs_have_columns_for_both() {
    let pair = || RowOutcome::Pair { chosen: rewards(2.0), rejected: rewards(0.5) };
    let batch = written(Some(Layout { one: false, pair: true }), (1..=3000).map(|i| answer(i, pair())).collect());
    assert_eq!(batch.num_rows(), 3000);
    let names = names(&batch);
    assert!(names.iter().any(|name| name == "chosen.attributes.length") && !names.iter().any(|name| name == "reward"));
    let margins = batch.column_by_name("margin").unwrap();
    assert_eq!(margins.as_primitive::<arrow_array::types::Float64Type>().value(2999), 1.5);
}

#[test]
fn a_file_without_rows_has_its_columns() {
    let batch = written(None, Vec::new());
    assert_eq!(batch.num_rows(), 0);
    assert!(names(&batch).iter().any(|name| name == "reward"));
}

#[test]
fn kept_columns_go_from_table_to_table_as_they_are() {
    let count = 2500;
    let ids: ArrayRef = Arc::new(Int32Array::from_iter_values(0..count));
    let days: ArrayRef = Arc::new(arrow_array::Date32Array::from_iter_values(0..count));
    let text: ArrayRef = Arc::new(StringArray::from_iter_values((0..count).map(|_| "t")));
    let file = table(vec![("day", days), ("text", text), ("id", ids)]);
    let mut reader = Reader::open(file, ExtraColumns::Keep, Destination::Parquet).unwrap();
    let layout = Some(reader.layout());
    let mut answers = Vec::new();
    while let Some(row) = reader.next().unwrap() {
        let parsed = rollout_file::parse(&row.json, row.place, ExtraColumns::Keep);
        assert!(parsed.extra.is_empty());
        let outcome = RowOutcome::One(rewards(row.place.number() as f32));
        answers.push(RowAnswer { id: parsed.id, batch: row.batch, ..answer(row.place.number(), outcome) });
    }
    let batch = written(layout, answers);
    assert_eq!(batch.num_rows(), 2500);
    let days = batch.column_by_name("day").unwrap();
    assert_eq!(days.data_type(), &DataType::Date32);
    let days = days.as_primitive::<arrow_array::types::Date32Type>();
    let rewards = batch.column_by_name("reward").unwrap().as_primitive::<Float32Type>();
    for row in [0, 1023, 1024, 2047, 2048, 2499] {
        assert_eq!((days.value(row), rewards.value(row)), (row as i32, (row + 1) as f32));
    }
}

/// Data sets number their groups.
#[test]
fn a_group_may_be_a_number() {
    let groups: ArrayRef = Arc::new(Int64Array::from(vec![3]));
    let file = table(vec![("group", groups), ("text", texts(&[Some("t")]))]);
    let read = rows(file, ExtraColumns::Refuse, Destination::JsonLines);
    let Content::One(rollout) = read[0].content.as_ref().unwrap() else { panic!() };
    assert_eq!(rollout.group, "3");
}
