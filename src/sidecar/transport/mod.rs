//! Transports: each decodes rollouts, makes their tickets, and hands them to intake. The sidecar knows them by [`Transport`]
//! alone.

mod caller;
pub(super) mod grpc;
pub(super) mod http;
#[cfg(target_os = "linux")]
pub(super) mod shm;
mod socket_file;

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::aggregate::AGGREGATIONS;
use crate::engine::ModelCard;
use crate::proto::{self, v1};
use crate::sidecar::{Intake, OverLong, Served};

/// A running transport, as the sidecar ends it.
#[tonic::async_trait]
pub(super) trait Transport: Send + Sync {
    /// Tells its callers that no new work is wanted. What is accepted goes on.
    async fn refuse(&self);

    /// Ends once every answer has been read by its caller, and at `until` at the latest. All accepted rollouts have been answered by
    /// then. Returns how many answers are known not to have been read.
    async fn stop(self: Box<Self>, until: Instant) -> usize;
}

/// Waits for a server's tasks until `until` at the latest; `false` if some were still running then. `server` is for the log.
async fn ended(tasks: &mut JoinSet<()>, until: Instant, server: &str) -> bool {
    let ended = async {
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "the {server} server's task failed");
            }
        }
    };
    tokio::time::timeout_at(until, ended).await.is_ok()
}

/// What is served here, and on which terms, for the wire: one of the models, and the names of all.
fn served(card: &ModelCard, intake: &Intake, in_flight_limit: usize) -> v1::ModelCard {
    let over_long = match intake.over_long() {
        OverLong::Reject => "reject",
        OverLong::TruncateLeft => "truncate-left",
    };
    let named = |served: &Arc<Served>| v1::NamedModel {
        name: served.name().to_owned(),
        model_version: served.card().model_version.to_string(),
    };
    let card = proto::card_to_wire(&proto::ServedModel {
        model: card.clone(),
        in_flight_limit: in_flight_limit as u32,
        over_long: over_long.into(),
        aggregations: AGGREGATIONS.iter().map(|a| a.name().to_owned()).collect(),
    });
    v1::ModelCard { models: intake.models().iter().map(named).collect(), ..card }
}
