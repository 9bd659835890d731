//! Logs on stderr and, where a collector is named, spans over OTLP. Standard output belongs to data alone.

mod collector;

use std::io::IsTerminal as _;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{FilterExt as _, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use self::collector::Collector;
use crate::config::{Loaded, Settings};
use crate::secret::Secret;

/// How long the last spans may take on their way out.
const FLUSH: Duration = Duration::from_secs(5);

/// Logging and tracing in force; [`Telemetry::shutdown`] sends the spans that are not sent yet.
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

/// Why logs or spans cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error("log: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The exporter cannot be built.
    #[error("otlp_endpoint: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// A header for the collector is none. The text itself is a secret.
    #[error(
        "otlp_headers: entry {entry} is no NAME=VALUE of printable ASCII; write for example authorization=Bearer TOKEN, \
         with a comma between headers"
    )]
    Header {
        /// Which one, counted from 1.
        entry: usize,
    },
    /// Something else in this process logs already.
    #[error("{0}")]
    Subscriber(#[from] tracing_subscriber::util::TryInitError),
}

impl Telemetry {
    /// Logs what the setting `log` lets through, and no spans.
    pub fn logs(loaded: &Loaded) -> Result<Self, TelemetryError> {
        Self::start(loaded, None)
    }

    /// Logs, and sends spans to `otlp_endpoint` where that is set. Must be called inside a tokio runtime, which carries the
    /// exporter's connection and must outlive [`Telemetry::shutdown`].
    pub fn logs_and_spans(loaded: &Loaded) -> Result<Self, TelemetryError> {
        let Settings { otlp_endpoint, otlp_headers, .. } = &loaded.settings;
        let provider = otlp_endpoint.as_deref().map(|endpoint| provider(endpoint, otlp_headers.as_ref()));
        Self::start(loaded, provider.transpose()?)
    }

    fn start(loaded: &Loaded, provider: Option<SdkTracerProvider>) -> Result<Self, TelemetryError> {
        // Lines, not spans: where nobody collects spans, none are made, and a rollout does not pay for them.
        let lines = EnvFilter::builder().parse(&loaded.settings.log)?.and(filter_fn(|metadata| metadata.is_event()));
        let mut logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        // On a terminal the layer's own default holds: colours, unless NO_COLOR is set (<https://no-color.org>).
        if !std::io::stderr().is_terminal() {
            logs.set_ansi(false);
        }
        let logs = logs.with_filter(lines);
        let spans = provider.as_ref().map(|provider| {
            // Our own spans alone. The exporter speaks through h2, hyper, tonic and tower, which trace themselves: let
            // through, every export would make spans to be exported.
            let ours = Targets::new().with_target("reward_sidecar", LevelFilter::INFO);
            tracing_opentelemetry::layer().with_tracer(provider.tracer("reward-sidecar")).with_filter(ours)
        });
        tracing_subscriber::registry().with(logs).with(spans).try_init()?;
        for variable in &loaded.unknown_variables {
            tracing::warn!("environment: there is no setting '{variable}'; it is ignored");
        }
        Ok(Self { provider })
    }

    /// Sends the spans that are not sent yet. Blocks; not for an async task.
    pub fn shutdown(self) {
        if let Some(provider) = self.provider
            && let Err(error) = provider.shutdown_with_timeout(FLUSH)
        {
            tracing::warn!("the last spans could not be sent: {error}");
        }
    }
}

fn provider(endpoint: &str, headers: Option<&Secret>) -> Result<SdkTracerProvider, TelemetryError> {
    let headers = headers.map(metadata).transpose()?.unwrap_or_default();
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_metadata(headers).build()?;
    let resource = Resource::builder().with_service_name("reward-sidecar").build();
    let collector = Collector::new(exporter, endpoint);
    Ok(SdkTracerProvider::builder().with_batch_exporter(collector).with_resource(resource).build())
}

/// `name=value,name=value` as metadata of each export. The values are marked as sensitive: printing the map does not
/// print them, and HTTP/2 keeps them out of its compression tables.
fn metadata(headers: &Secret) -> Result<MetadataMap, TelemetryError> {
    let mut metadata = MetadataMap::new();
    for (header, entry) in headers.reveal().split(',').zip(1..) {
        let parsed = header.split_once('=').and_then(|(name, value)| {
            let name = MetadataKey::<Ascii>::from_bytes(name.trim().to_lowercase().as_bytes()).ok()?;
            let value = MetadataValue::<Ascii>::try_from(value.trim()).ok()?;
            Some((name, value))
        });
        let (name, mut value) = parsed.ok_or(TelemetryError::Header { entry })?;
        value.set_sensitive(true);
        metadata.append(name, value);
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_sent_and_not_shown() {
        let headers = Secret::new("authorization=Bearer hunter2==, X-Tenant = team a");
        let metadata = metadata(&headers).unwrap();
        assert_eq!(metadata.get("authorization").unwrap(), "Bearer hunter2==");
        assert_eq!(metadata.get("x-tenant").unwrap(), "team a");
        let shown = format!("{metadata:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("team a"), "{shown}");
    }

    #[test]
    fn a_header_that_is_none_is_counted_and_not_shown() {
        for (headers, entry) in
            [("hunter2", 1), ("a=b,hunter2", 2), ("=hunter2", 1), ("a=hunter2\n", 0), ("a=h\u{7f}", 1)]
        {
            let found = metadata(&Secret::new(headers));
            if entry == 0 {
                // White space around a value is none of it.
                assert_eq!(found.unwrap().get("a").unwrap(), "hunter2");
                continue;
            }
            let message = found.unwrap_err().to_string();
            assert!(message.contains(&format!("entry {entry} ")) && !message.contains("hunter2"), "{message}");
        }
    }
}
