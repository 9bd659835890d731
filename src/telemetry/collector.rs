//! Spans on their way to the collector.
//!
//! The invariant: the log says once when the collector begins to take none, and once when it takes them again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

/// An exporter that says in the log what becomes of its spans. See the module.
#[derive(Debug)]
pub(super) struct Collector<E> {
    exporter: E,
    /// As the setting has it.
    endpoint: String,
    /// Spans lost since the collector last took some.
    lost: AtomicUsize,
}

impl<E> Collector<E> {
    pub(super) fn new(exporter: E, endpoint: &str) -> Self {
        Self { exporter, endpoint: endpoint.to_owned(), lost: AtomicUsize::new(0) }
    }

    fn said(&self, spans: usize, result: &OTelSdkResult) {
        let endpoint = &self.endpoint;
        match result {
            Ok(()) => match self.lost.swap(0, Ordering::Relaxed) {
                0 => {}
                lost => tracing::info!("otlp_endpoint {endpoint} takes spans again; {lost} were lost"),
            },
            Err(error) => {
                if self.lost.fetch_add(spans, Ordering::Relaxed) == 0 {
                    let reason = reason(error);
                    tracing::warn!(
                        "otlp_endpoint {endpoint} takes no spans: {reason}; they are lost until it does. Is an OTLP collector \
                         listening there for gRPC?"
                    );
                }
            }
        }
    }
}

/// The error without the names of its types.
fn reason(error: &OTelSdkError) -> String {
    match error {
        OTelSdkError::Timeout(after) => format!("no answer in {} s", after.as_secs()),
        OTelSdkError::InternalFailure(reason) => reason.clone(),
        error => error.to_string(),
    }
}

impl<E: SpanExporter> SpanExporter for Collector<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.exporter.export(batch).await;
        self.said(spans, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Fails until it is told otherwise.
    #[derive(Debug, Default)]
    struct Broken(std::sync::atomic::AtomicBool);

    impl SpanExporter for Broken {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            if self.0.load(Ordering::Relaxed) { Ok(()) } else { Err(OTelSdkError::Timeout(Duration::from_secs(10))) }
        }
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_collector_that_takes_no_spans_is_said_once_and_so_is_its_return() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let collector = Collector::new(Broken::default(), "http://127.0.0.1:4317");
        let span = || SpanData {
            span_context: opentelemetry::trace::SpanContext::empty_context(),
            parent_span_id: opentelemetry::trace::SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: opentelemetry::trace::SpanKind::Internal,
            name: "rollout".into(),
            start_time: std::time::UNIX_EPOCH,
            end_time: std::time::UNIX_EPOCH,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status: Default::default(),
            instrumentation_scope: Default::default(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..3 {
                assert!(runtime.block_on(collector.export(vec![span(), span()])).is_err());
            }
            collector.exporter.0.store(true, Ordering::Relaxed);
            for _ in 0..2 {
                assert!(runtime.block_on(collector.export(vec![span()])).is_ok());
            }
        });
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), 2, "{log}");
        assert!(
            lines[0].contains("WARN") && lines[0].contains("http://127.0.0.1:4317 takes no spans: no answer in 10 s")
        );
        assert!(lines[1].contains("INFO") && lines[1].contains("takes spans again; 6 were lost"), "{log}");
    }
}
