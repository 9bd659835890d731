//! The one door for all transports.
use std::sync::Arc;

use super::Ticket;
use crate::engine::ModelCard;
use crate::rollout::Rollout;

/// The door; cheap to clone.
#[derive(Debug, Clone)]
pub struct Intake {}

impl Intake {
    /// The model behind the door.
    pub fn card(&self) -> &Arc<ModelCard> {
        todo!()
    }

    /// Takes a rollout in; the ticket is answered in any case. Waits while the queue is full (that is the
    /// back-pressure); drop the future to give up.
    pub async fn submit(&self, _rollout: Rollout, _ticket: Ticket) {
        todo!()
    }
}
