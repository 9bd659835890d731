//! `serve`: the sidecar behind its transports, until a signal.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::engine;
use super::exit::Exit;
use super::failure::Failure;
use super::notify::{self, State};
use super::output;
use super::runtime;
use super::signals::Signals;
use crate::config::{self, Flags, SERVE, Settings};
use crate::engine::ModelCard;
use crate::model;
use crate::sidecar::admin::{Admin, Readiness};
use crate::sidecar::{Listeners, Sidecar, descriptors, metrics};
use crate::telemetry::Telemetry;

/// Serve rewards over gRPC, on TCP and on a Unix socket, over HTTP, as trainers' own clients speak it, and through shared memory.
///
/// The whole configuration is checked, and every address and path is bound, before the model is loaded. Until it is, calls over
/// gRPC wait, lanes are refused (clients ask again), and the admin port answers /health (200) and /ready (503).
///
/// SIGTERM, SIGINT or SIGHUP drains: new work is refused, accepted work is answered and its answers are read, exit 0. A second
/// signal ends at once (exit 128+n), a drain longer than drain_ms ends with exit 3.
///
/// A sidecar that can be trusted no longer (a thread of its own panicked, the engine fails again and again, a pass outlasts
/// watchdog_ms, a known answer is another one) says so at /ready and in the log, and ends with exit 3.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Serve {
    #[command(flatten)]
    flags: Flags<SERVE>,
    /// Print the settings in force as a configuration file, each with where it came from, and exit
    #[arg(long)]
    print_config: bool,
}

/// How long a server that has failed may take to end.
const STUCK: Duration = Duration::from_secs(10);

const EXAMPLES: &str = "\
Examples:
  reward-sidecar serve --model demo
  reward-sidecar serve --model ./my-reward-model --grpc 0.0.0.0:50051 --uds /run/reward-sidecar.sock
  reward-sidecar serve --model demo --shm /tmp/rewards.sock
  reward-sidecar serve --model ./base --adapter helpful=./runs/a --adapter safe=./runs/b     several models on one base
  reward-sidecar serve --model ./my-reward-model --http 127.0.0.1:8000      OpenRLHF: http://127.0.0.1:8000/get_reward
  reward-sidecar serve --model echo                       no model, to measure transports and to try a trainer out
  reward-sidecar serve --model demo --max-batch-tokens 8192 --print-config > sidecar.toml
  reward-sidecar serve --config sidecar.toml --otlp-endpoint http://127.0.0.1:4317";

impl Serve {
    pub fn run(self) -> Result<Exit, Failure> {
        let loaded = config::load_here(&self.flags)?;
        if self.print_config {
            Telemetry::logs(&loaded)?;
            output::print(&loaded.to_toml())?;
            return Ok(Exit::DONE);
        }
        let settings = &loaded.settings;
        let model = settings.model()?;
        settings.check_listens()?;

        let runtime = runtime::start()?;
        let telemetry = {
            let _inside = runtime.enter();
            Telemetry::logs_and_spans(&loaded)?
        };
        let done = runtime.block_on(serve(settings, model));
        if !matches!(done, Err(Failure::Signal(_))) {
            telemetry.shutdown();
        }
        // A model that is still loading cannot be interrupted, only left behind.
        runtime.shutdown_background();
        done.map(|()| Exit::DONE)
    }
}

async fn serve(settings: &Settings, model: model::Config) -> Result<(), Failure> {
    // Before anything that takes long: as process 1 of a container, no handler would mean no death.
    let signals = Signals::new().and_then(Signals::and_hang_up);
    let mut signals = signals.map_err(|e| Failure::internal(format!("cannot wait for signals: {e}")))?;
    let descriptors = descriptors::raise_limit();
    let admin = settings.admin.map(|address| Admin::start(address, metrics::install())).transpose()?;
    if let Some(admin) = &admin {
        info!("admin: http://{}/metrics, /health, /ready", admin.addr());
    }

    let listeners = Listeners::bind(&settings.sidecar()).await?;
    match descriptors {
        Ok(limit) => info!(
            "at most {limit} descriptors (ulimit -n), {} of them for connections of the admin port",
            descriptors::admin_connections()
        ),
        Err(error) => warn!("the limit on descriptors cannot be raised: {error}"),
    }

    info!("loading {}", settings.model);
    let started = Instant::now();
    let loading = tokio::task::spawn_blocking(move || engine::load_all(&model));
    let engines = tokio::select! {
        loaded = loading => loaded.map_err(|e| Failure::internal(format!("loading the model: {e}")))??,
        signal = signals.next() => {
            info!("{signal} while loading; nothing was accepted");
            return Ok(());
        }
    };
    let loaded_in = started.elapsed();
    engines.iter().for_each(|engine| say_what_is_loaded(engine.card(), loaded_in));

    let sidecar = Sidecar::start_models(listeners, settings.sidecar(), engines).await?;
    if let Some(address) = sidecar.grpc_addr() {
        info!("grpc: listening on {address}");
    }
    if let Some(address) = sidecar.grpc_addr().filter(|address| !address.ip().is_loopback()) {
        warn!(
            "grpc: {address} can be reached from other machines, and whoever reaches it is served: there is no TLS and no \
             authentication here. Listen on 127.0.0.1 or on a Unix socket, or let a firewall or proxy keep others out"
        );
    }
    if let Some(path) = &settings.uds {
        info!("grpc: listening on unix:{}", path.display());
    }
    for address in sidecar.http_addresses() {
        info!("http: listening on {address}");
    }
    if let Some(path) = &settings.shm {
        info!("shm: listening on shm://{}", path.display());
    }
    let manager = config::notify_socket();
    set_ready(&admin, Readiness::Ready);
    notify::tell(manager.as_deref(), State::Ready);
    info!("ready");

    let first = tokio::select! {
        signal = signals.next() => signal,
        reason = sidecar.health().failed() => {
            set_ready(&admin, Readiness::Failed(Arc::clone(&reason)));
            notify::tell(manager.as_deref(), State::Stopping);
            abort_if_stuck();
            // What is accepted gets its answer, where it still can.
            if let Err(error) = sidecar.end().await {
                warn!("{error}");
            }
            return Err(Failure::failed(&reason));
        }
    };
    set_ready(&admin, Readiness::Draining);
    notify::tell(manager.as_deref(), State::Stopping);
    info!("{first}: draining, for at most {} ms; a second signal ends at once", settings.drain_ms);
    tokio::select! {
        drained = sidecar.drain() => drained?,
        second = signals.next() => {
            info!("{second}: ending at once");
            return Err(Failure::Signal(second.number()));
        }
    }
    info!("drained");
    Ok(())
}

/// A model is loaded, together with others or alone.
fn say_what_is_loaded(card: &ModelCard, loaded_in: Duration) {
    metrics::info(card);
    info!("loaded {} in {loaded_in:.1?}; attributes: {}", card.model_version, card.attributes.join(", "));
    if card.default_weighting.is_none() {
        let example = card.attributes.first().map(String::as_str).unwrap_or_default();
        warn!(
            "{} has {} attributes and names no default weighting, so a rollout without weights is NO_WEIGHTING: send \
             weights such as {{\"{example}\": 1}} with each, or name a default_weighting in a reward-model.toml",
            card.name,
            card.attributes.len()
        );
    }
}

/// A process that ends runs what its libraries have registered for that, and a driver may wait there for a device that is stuck.
/// What restarts the server must not wait with it.
fn abort_if_stuck() {
    let wait = || {
        std::thread::sleep(STUCK);
        std::process::abort();
    };
    if let Err(error) = std::thread::Builder::new().name("abort".into()).spawn(wait) {
        warn!("cannot watch over the end of the process: {error}");
    }
}

fn set_ready(admin: &Option<Admin>, readiness: Readiness) {
    if let Some(admin) = admin {
        admin.set_ready(readiness);
    }
}
