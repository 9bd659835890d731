//! Logs on stderr and, where a collector is named, spans over OTLP. Standard output belongs to data alone.

use std::io::IsTerminal as _;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{FilterExt as _, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// How long the last spans may take on their way out.
const FLUSH: Duration = Duration::from_secs(5);

/// Logging and tracing in force; [`Telemetry::shutdown`] sends what is left.
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
    /// Something else in this process logs already.
    #[error("{0}")]
    Subscriber(#[from] tracing_subscriber::util::TryInitError),
}

impl Telemetry {
    /// Logs what `log` lets through. With an `otlp_endpoint` it must be called inside a tokio runtime, which carries the
    /// exporter's connection and must outlive [`Telemetry::shutdown`].
    pub fn start(log: &str, otlp_endpoint: Option<&str>) -> Result<Self, TelemetryError> {
        // Lines, not spans: where nobody collects spans, none are made, and a rollout does not pay for them.
        let lines = EnvFilter::builder().parse(log)?.and(filter_fn(|metadata| metadata.is_event()));
        let logs = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_filter(lines);
        let provider = otlp_endpoint.map(provider).transpose()?;
        let spans = provider.as_ref().map(|provider| {
            opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
            // Our own spans alone. The exporter speaks through h2, hyper, tonic and tower, which trace themselves: let
            // through, every export would make spans to be exported.
            let ours = Targets::new().with_target("reward_sidecar", LevelFilter::INFO);
            tracing_opentelemetry::layer().with_tracer(provider.tracer("reward-sidecar")).with_filter(ours)
        });
        tracing_subscriber::registry().with(logs).with(spans).try_init()?;
        Ok(Self { provider })
    }

    /// Sends the spans that are left. Blocks; not for an async task.
    pub fn shutdown(self) {
        if let Some(provider) = self.provider
            && let Err(error) = provider.shutdown_with_timeout(FLUSH)
        {
            tracing::warn!("the last spans could not be sent: {error}");
        }
    }
}

fn provider(endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
    let resource = Resource::builder().with_service_name("reward-sidecar").build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}
