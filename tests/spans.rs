//! The spans of a rollout, as a collector gets them: one trace with the caller's, whatever the transport and the form.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::*;
use opentelemetry::trace::{SpanId, TracerProvider as _};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use reward_sidecar::client::blocking::Client;
use reward_sidecar::engine::{EchoEngine, ReadPolicy};
use reward_sidecar::proto::v1;
use reward_sidecar::rollout::{Input, Message, Rollout};
use reward_sidecar::sidecar::{Config, Sidecar};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Longer than anything here takes on a busy machine; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// The caller's span, the parent of all.
const CALLER: &str = "00f067aa0ba902b7";

/// Keeps what is exported.
#[derive(Debug, Clone, Default)]
struct Memory(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Memory {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(batch);
        Ok(())
    }
}

impl Memory {
    /// Waits until a trace has so many spans.
    fn trace(&self, trace: &str, spans: usize) -> Vec<SpanData> {
        let end = Instant::now() + PATIENCE;
        loop {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let found: Vec<_> = all.into_iter().filter(|s| s.span_context.trace_id().to_string() == trace).collect();
            if found.len() >= spans {
                return found;
            }
            assert!(Instant::now() < end, "{trace} has {found:?}");
            std::thread::yield_now();
        }
    }
}

/// One trace for each rollout of this test.
fn trace(number: u32) -> String {
    format!("4bf92f3577b34da6a3ce929d{number:08x}")
}

fn traceparent(number: u32) -> String {
    format!("00-{}-{CALLER}-01", trace(number))
}

/// `rollout` under the caller's span, and the four stages under `rollout`.
#[track_caller]
fn check(what: &str, spans: &[SpanData], tokens: usize) {
    let by_name: BTreeMap<&str, &SpanData> = spans.iter().map(|span| (&*span.name, span)).collect();
    let names: Vec<_> = by_name.keys().copied().collect();
    assert_eq!(names, ["forward", "intake", "queue", "reply", "rollout"], "{what}");
    assert_eq!(spans.len(), 5, "{what}: {spans:?}");
    let rollout = by_name["rollout"];
    assert_eq!(rollout.parent_span_id, SpanId::from_hex(CALLER).unwrap(), "{what}");
    assert!(rollout.parent_span_is_remote, "{what}");
    for name in ["intake", "queue", "forward", "reply"] {
        let span = by_name[name];
        assert_eq!(span.parent_span_id, rollout.span_context.span_id(), "{what}: {name}");
        assert!(span.start_time >= rollout.start_time && span.end_time <= rollout.end_time, "{what}: {name}");
    }
    for (earlier, later) in [("intake", "queue"), ("queue", "forward"), ("forward", "reply")] {
        assert!(by_name[earlier].start_time <= by_name[later].start_time, "{what}: {earlier}, {later}");
    }
    let attribute = |name: &str| {
        let found = rollout.attributes.iter().find(|attribute| attribute.key.as_str() == name);
        found.map(|attribute| attribute.value.to_string())
    };
    assert_eq!(attribute("tokens"), Some(tokens.to_string()), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_has_its_spans_under_the_callers() {
    let memory = Memory::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(memory.clone()).build();
    tracing_subscriber::registry()
        .with(tracing_opentelemetry::layer().with_tracer(provider.tracer("test")))
        .with(tracing_subscriber::filter::Targets::new().with_target("reward_sidecar", tracing::Level::INFO))
        .init();

    let folder = tempfile::tempdir().unwrap();
    let config = Config { shm: Some(folder.path().join("lanes.sock")), max_wait_ms: 0, ..loopback() };
    let engine = EchoEngine::new(CONTEXT).taking(words(), ReadPolicy::default());
    let sidecar = Sidecar::start(config.clone(), Box::new(engine)).await.unwrap();

    let chat = || Input::chat([Message::new("user", "w1 w2")], "w3");
    let forms: [(&str, Input, usize); 3] = [
        ("token ids", Input::TokenIds(vec![1, 2, 3]), 3),
        ("text", Input::Text("user w1 w2 end".into()), 4),
        ("conversation", chat(), 6),
    ];
    let addresses = [
        ("grpc", format!("grpc://{}", sidecar.grpc_addr().unwrap())),
        ("lane", format!("shm://{}", config.shm.as_deref().unwrap().display())),
    ];
    let mut number = 0;
    for (transport, address) in addresses {
        let client = tokio::task::spawn_blocking(move || Client::connect(address).unwrap()).await.unwrap();
        for (form, input, tokens) in &forms {
            number += 1;
            let rollout = Rollout {
                id: number.to_string(),
                input: Some(input.clone()),
                traceparent: traceparent(number),
                ..Rollout::default()
            };
            let client = client.clone();
            let score = move || client.score_all(Arc::new(vec![rollout]), &mut || true).unwrap().remove(0).unwrap();
            assert_eq!(tokio::task::spawn_blocking(score).await.unwrap().tokens as usize, *tokens);
            check(&format!("{form} over {transport}"), &memory.trace(&trace(number), 5), *tokens);
        }
    }

    // A call may say it for all of its rollouts, in the headers that every instrumented client sends.
    number += 1;
    let mut client = connect(&sidecar).await;
    let mut request = tonic::Request::new(v1::ScoreBatchRequest { rollouts: vec![ids("a", &[1, 2])] });
    request.metadata_mut().insert("traceparent", traceparent(number).parse().unwrap());
    request.metadata_mut().insert("tracestate", "vendor=a1".parse().unwrap());
    let replies = client.score_batch(request).await.unwrap().into_inner().replies;
    assert_eq!(rewards(&replies[0]).tokens, 2);
    let spans = memory.trace(&trace(number), 5);
    check("a call", &spans, 2);
    assert!(spans.iter().all(|span| span.span_context.trace_state().get("vendor") == Some("a1")), "{spans:?}");

    sidecar.drain().await.unwrap();
}
