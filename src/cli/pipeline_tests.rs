//! Tests of the pipeline, with the echo engine behind it.

use std::io::{self, BufRead, Write};
use std::sync::Mutex;

use super::super::compression::Encoder;
use super::*;
use crate::cli::exit::Exit;
use crate::cli::{rewards_file, rollout_file};
use crate::engine::{EchoEngine, ReadAt, ReadPolicy, Reduce, TextAssets};
use crate::sidecar::{Config, Sidecar};

/// An output that can be read after the pipeline has consumed it.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reader that left.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Scores with the echo engine: context 64, attribute `length` with weight 1 by default.
fn score(
    input: impl BufRead + Send + 'static,
    output: impl Write + Send + 'static,
    defaults: AggregationSpec,
) -> Result<Progress, Failure> {
    score_with(EchoEngine::new(64), input, output, defaults)
}

fn score_with(
    engine: EchoEngine,
    input: impl BufRead + Send + 'static,
    output: impl Write + Send + 'static,
    defaults: AggregationSpec,
) -> Result<Progress, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let done = runtime.block_on(async {
        let config = Config { max_batch_tokens: 256, queue_rollouts: 8, ..Config::default() };
        let sidecar = Sidecar::start(config, Box::new(engine)).await.unwrap();
        let job = Job {
            input: Box::new(rollout_file::JsonLines::new(input)),
            output: Box::new(rewards_file::JsonLines::new(Encoder::Plain(output))),
            extra_columns: ExtraColumns::Keep,
            input_name: "in".into(),
            output_name: "out".into(),
            defaults,
            window: 5,
            submissions: 3,
            kept: None,
            interrupted: watch::channel(false).1,
        };
        let done = run(&sidecar, job, Progress::start(None, (0, 0))).await.map(|scored| scored.progress);
        sidecar.drain().await.unwrap();
        done
    });
    runtime.shutdown_background();
    done
}

fn answers(output: &Shared) -> Vec<serde_json::Value> {
    let text = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_line_has_its_answer_in_its_place() {
    let mut input = String::new();
    for i in 0..2000 {
        input += &match i % 10 {
            3 => "garbage\n".to_owned(),
            7 => format!("{{\"id\":\"{i}\",\"input_ids\":{:?}}}\n", vec![1; 65]),
            n => format!("{{\"id\":\"{i}\",\"input_ids\":{:?}}}\n", vec![i; 1 + n]),
        };
    }
    let output = Shared::default();
    let progress = score(io::Cursor::new(input), output.clone(), AggregationSpec::default()).unwrap();
    assert!(!progress.all_scored());
    let answers = answers(&output);
    assert_eq!(answers.len(), 2000);
    for (i, answer) in answers.iter().enumerate() {
        match i % 10 {
            3 => {
                assert_eq!(answer["error"]["code"], "MALFORMED");
                assert_eq!((&answer["id"], &answer["line"]), (&serde_json::Value::Null, &(i + 1).into()));
            }
            7 => assert_eq!((&answer["id"], &answer["error"]["code"]), (&i.to_string().into(), &"TOO_LONG".into())),
            n => {
                assert_eq!(answer["id"], i.to_string());
                assert_eq!(answer["reward"], (1 + n) as f64);
                assert_eq!(answer["tokens"], 1 + n);
            }
        }
    }
    assert!(
        progress
            .finish()
            .lines()
            .starts_with("2000 rollouts: 1600 scored, 400 rejected (MALFORMED 200, TOO_LONG 200); ")
    );
}

#[test]
fn defaults_are_for_those_who_bring_none() {
    let lines = concat!(
        "{\"id\":\"a\",\"input_ids\":[1,2]}\n",
        "{\"id\":\"b\",\"input_ids\":[1,2],\"weights\":{\"length\":3}}\n",
        "{\"id\":\"c\",\"input_ids\":[1,2],\"weighting\":\"default\"}\n",
        "{\"id\":\"d\",\"input_ids\":[1,2],\"aggregation\":{\"offset\":0.5}}\n",
    );
    let output = Shared::default();
    let weights = std::collections::BTreeMap::from([("length".to_owned(), -1.0)]);
    let defaults = AggregationSpec { weights, ..AggregationSpec::default() };
    assert!(score(lines.as_bytes(), output.clone(), defaults).unwrap().all_scored());
    let rewards: Vec<_> = answers(&output).iter().map(|answer| answer["reward"].as_f64().unwrap()).collect();
    assert_eq!(rewards, [-2.0, 6.0, 2.0, -1.5]);
}

#[test]
fn steps_are_listed_with_the_rollout() {
    let at = ReadAt::EveryToken { token: 9, reduce: Reduce::Min };
    let engine = EchoEngine::new(64).taking(TextAssets::default(), ReadPolicy { at, ..ReadPolicy::default() });
    let lines = "{\"id\":\"a\",\"input_ids\":[1,9,2,9,3]}\n{\"id\":\"b\",\"input_ids\":[1,2]}\n";
    let output = Shared::default();
    score_with(engine, lines.as_bytes(), output.clone(), AggregationSpec::default()).unwrap();
    let [steps, none] = answers(&output).try_into().unwrap();
    assert_eq!((&steps["reward"], &steps["tokens"]), (&2.0.into(), &5.into()));
    let step = |tokens: &[u32]| {
        // The fewest digits that read back to the same float32, read as a float64.
        let digits = |value: f32| value.to_string().parse::<f64>().unwrap();
        let [length, checksum] = EchoEngine::expected(tokens).map(digits);
        let attributes = serde_json::json!({"length": length, "checksum": checksum});
        let tokens = tokens.len();
        serde_json::json!({"tokens": tokens, "reward": length, "attributes": attributes, "end_tokens": tokens})
    };
    assert_eq!(steps["reads"], serde_json::json!([step(&[1, 9]), step(&[1, 9, 2, 9])]));
    assert_eq!(none["error"]["code"], "NO_READ_POSITION");
}

/// The cases of tools/make_messages.py: each row beside the text that transformers makes of it.
#[test]
fn a_file_of_conversations_has_the_rewards_of_their_texts() {
    let fixture: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/fixtures/messages/cases.json")).unwrap();
    let templates = fixture["templates"].as_object().unwrap().iter();
    let mut named_templates: std::collections::BTreeMap<_, _> =
        templates.map(|(name, source)| (name.clone(), source.as_str().unwrap().to_owned())).collect();
    let text = TextAssets {
        tokenizer_json: Some(fixture["tokenizer"].to_string().into_bytes().into()),
        chat_template: named_templates.remove("default"),
        named_templates,
        template_variables: [("bos_token".to_owned(), "<s>".to_owned())].into(),
        ..TextAssets::default()
    };
    let cases = fixture["cases"].as_array().unwrap();
    let lines: String = cases
        .iter()
        .map(|case| format!("{}\n{}\n", case["row"].as_str().unwrap(), serde_json::json!({"text": case["text"]})))
        .collect();
    let output = Shared::default();
    let engine = EchoEngine::new(1 << 14).taking(text, ReadPolicy::default());
    score_with(engine, io::Cursor::new(lines), output.clone(), AggregationSpec::default()).unwrap();
    let answers = answers(&output);
    assert_eq!(answers.len(), 2 * cases.len());
    for (case, pair) in cases.iter().zip(answers.chunks(2)) {
        for field in ["reward", "attributes", "tokens"] {
            assert_eq!(pair[0][field], pair[1][field], "{}: {}", case["name"], pair[0]);
        }
        assert!(pair[0]["reward"].is_number(), "{}: {}", case["name"], pair[0]);
    }
}

/// An endless input whose output nobody reads.
#[test]
fn a_reader_that_left_ends_it_quietly() {
    struct Endless(u64, Vec<u8>);
    impl io::Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.1.is_empty() {
                self.0 += 1;
                self.1 = format!("{{\"id\":\"{}\",\"input_ids\":[1]}}\n", self.0).into_bytes();
            }
            let n = self.1.len().min(buffer.len());
            buffer[..n].copy_from_slice(&self.1[..n]);
            self.1.drain(..n);
            Ok(n)
        }
    }
    let input = io::BufReader::new(Endless(0, Vec::new()));
    let done = score(input, Closed, AggregationSpec::default());
    assert!(matches!(done, Err(Failure::NoReader)));
}

/// What was read before the failure is scored and written.
#[test]
fn an_input_that_fails_half_way() {
    struct Failing;
    impl io::Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is gone"))
        }
    }
    let input = io::BufReader::new(io::Read::chain(&b"{\"id\":\"a\",\"input_ids\":[1]}\n"[..], Failing));
    let output = Shared::default();
    let Err(Failure::Fatal { message, exit: Exit::USAGE, .. }) =
        score(input, output.clone(), AggregationSpec::default())
    else {
        panic!("the failure was not reported")
    };
    assert!(message.contains("the disk is gone"), "{message}");
    assert_eq!(answers(&output)[0]["reward"], 1.0);
}

#[test]
fn pairs_are_scored_as_two_and_counted_as_one() {
    let lines = concat!(
        "{\"chosen\":\"a\",\"rejected\":\"b\",\"x\":[1, 2]}\n",
        "{\"id\":9,\"chosen\":5,\"rejected\":\"b\"}\n",
        "{\"input_ids\":[1],\"chosen\":\"a\",\"rejected\":\"b\"}\n",
    );
    let output = Shared::default();
    let progress = score(lines.as_bytes(), output.clone(), AggregationSpec::default()).unwrap();
    let [pair, malformed, several] = answers(&output).try_into().unwrap();
    // The echo engine has no tokenizer: either side says so for itself.
    for side in ["chosen", "rejected"] {
        assert!(pair[side]["error"]["code"].is_string(), "{pair}");
    }
    assert_eq!((&pair["id"], &pair["x"], pair.get("margin")), (&"1".into(), &serde_json::json!([1, 2]), None));
    assert_eq!((&malformed["id"], &malformed["error"]["code"]), (&"9".into(), &"MALFORMED".into()));
    assert_eq!(several["error"]["code"], "SEVERAL_INPUTS");
    let summary = serde_json::to_value(progress.finish()).unwrap();
    assert_eq!(summary["pairs"]["with_rejection"], 3);
    assert_eq!(summary["pairs"]["accuracy"], serde_json::Value::Null);
    assert_eq!((&summary["scored"], &summary["rejected"]), (&0.into(), &4.into()));
}

/// A panic, in a decoder for instance, is no end of the input.
#[test]
fn a_reader_that_panics_is_a_failure() {
    struct Panics;
    impl io::Read for Panics {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("a test's reader")
        }
    }
    let failure = score(io::BufReader::new(Panics), Shared::default(), AggregationSpec::default()).err().unwrap();
    let Failure::Fatal { code, message, .. } = failure else { panic!() };
    assert_eq!(code, "INTERNAL");
    assert!(message.contains("ended early"), "{message}");
}
