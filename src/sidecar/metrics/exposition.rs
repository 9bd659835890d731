//! The recorder behind the metrics, and the numbers as Prometheus reads them.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::names::{self, BATCH_FILL, BATCH_ROLLOUTS, STAGE_SECONDS};
use super::{handles, moments, open};

/// 50 µs to a minute: a short rollout through a small model, to a queue full of long ones.
const SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0, 60.0,
];
/// The last bound but one is a full budget; above it are rollouts that were longer than the budget and went alone.
const FILL: &[f64] = &[0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 2.0];
/// Powers of two up to the default limit and beyond.
const ROLLOUTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0, 65536.0];

/// The numbers as Prometheus reads them.
#[derive(Clone)]
pub struct Exposition(PrometheusHandle);

impl Exposition {
    /// Everything, in Prometheus' text format.
    pub fn render(&self) -> String {
        moments::publish();
        self.0.render()
    }

    /// Folds recorded times into their histograms. Must be called now and then, or they pile up between scrapes.
    pub fn run_upkeep(&self) {
        self.0.run_upkeep();
    }
}

impl std::fmt::Debug for Exposition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exposition")
    }
}

/// Installs the recorder of metrics, once per process; later calls get the same one. `None` where the process has installed a
/// recorder of its own: then the metrics go to that one. Before this is called nothing is recorded but [`super::totals`].
pub fn install() -> Option<Exposition> {
    static INSTALLED: OnceLock<Option<Exposition>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| {
            let recorder = with_buckets(PrometheusBuilder::new()).build_recorder();
            let handle = recorder.handle();
            let installed = ::metrics::set_global_recorder(recorder).is_ok();
            names::describe();
            handles::bind();
            handles::get()?.start_at_zero();
            open::start_at_zero();
            installed.then_some(Exposition(handle))
        })
        .clone()
}

fn with_buckets(mut builder: PrometheusBuilder) -> PrometheusBuilder {
    for (name, buckets) in [(STAGE_SECONDS, SECONDS), (BATCH_FILL, FILL), (BATCH_ROLLOUTS, ROLLOUTS)] {
        builder = builder
            .set_buckets_for_metric(Matcher::Full(name.into()), buckets)
            .expect("the only error is an empty list of buckets");
    }
    builder
}
