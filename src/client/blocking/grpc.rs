//! The gRPC arm: the client for tasks, with a thread of its own under it.
//!
//! Invariant: the thread ends by itself, once the last user of the client is gone and what was submitted is answered.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use tokio::runtime::{self, Handle};
use tokio::time::Instant;
use tracing::dispatcher::{self, Dispatch};

use super::inbox::{Inbox, Slot};
use super::{Check, PULSE, Stopped, Wire, no_ids};
use crate::client::command::Command;
use crate::client::link::Address;
use crate::client::waiter::{Answer, Origin, Waiter};
use crate::client::{Builder, Client, ClientError};
use crate::proto::ServedModel;
use crate::rollout::Rollouts;

/// One stream, driven by one thread.
#[derive(Debug)]
pub(super) struct Grpc {
    client: Client,
    runtime: Handle,
}

impl Grpc {
    /// Starts the thread, which connects.
    pub(super) fn start(builder: &Builder, address: Address) -> Result<Self, ClientError> {
        let failed = |error: std::io::Error| ClientError::NoThread { reason: error.to_string().into() };
        let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (client, driver) = builder.clone().parts(address);
        // What the thread has to report goes where the reports of the thread that made it go.
        let subscriber = dispatcher::get_default(Dispatch::clone);
        std::thread::Builder::new()
            .name("reward-client".into())
            .spawn(move || dispatcher::with_default(&subscriber, || runtime.block_on(driver.run())))
            .map_err(failed)?;
        Ok(Self { client, runtime: handle })
    }
}

/// One who waits, with the rollout of its owner: what is known of it when it is sent may be more than when it was submitted.
struct Asked {
    slot: Slot,
    rollouts: Arc<dyn Rollouts>,
    index: usize,
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asked").field("slot", &self.slot).field("index", &self.index).finish_non_exhaustive()
    }
}

impl Waiter for Asked {
    fn is_gone(&self) -> bool {
        self.slot.is_gone()
    }

    fn answer(self: Box<Self>, answer: Answer) {
        let Self { slot, rollouts, .. } = *self;
        // Who has the answers finds the rollouts free.
        drop(rollouts);
        slot.resolve(answer);
    }

    fn model_version(&self) -> Option<String> {
        let version = self.rollouts.get(self.index).model_version;
        (!version.is_empty()).then(|| version.to_owned())
    }

    fn origin(&self) -> Option<Origin> {
        self.slot.origin()
    }
}

impl Wire for Grpc {
    fn address(&self) -> &str {
        &self.client.config.address.text
    }

    fn card(&self, check: Check<'_>) -> Result<Arc<ServedModel>, Stopped> {
        if let Some(card) = self.known_card() {
            return Ok(card);
        }
        let (sender, receiver) = sync_channel(1);
        let client = self.client.clone();
        let asking = self.runtime.spawn(async move {
            // The thread that asked may have been interrupted.
            let _ = sender.send(client.card().await);
        });
        loop {
            match receiver.recv_timeout(PULSE) {
                Ok(card) => return Ok(card?),
                Err(RecvTimeoutError::Disconnected) => return Err(ClientError::Closed.into()),
                Err(RecvTimeoutError::Timeout) if check() => {}
                Err(RecvTimeoutError::Timeout) => {
                    asking.abort();
                    return Err(Stopped::Interrupted);
                }
            }
        }
    }

    fn try_submit(
        &self,
        inbox: &Arc<Inbox>,
        rollouts: &Arc<dyn Rollouts>,
        index: usize,
        tag: u64,
        issued: std::time::Instant,
    ) -> Result<bool, ClientError> {
        let issued = Instant::from_std(issued);
        let rollout = rollouts.get(index);
        let deadline = self.client.deadline(issued, rollout.deadline_ms);
        if let Some(deadline) = deadline.filter(|deadline| deadline.has_passed(Instant::now())) {
            Box::new(inbox.slot(tag)).answer(Ok(Err(deadline.rejection())));
            return Ok(true);
        }
        let Some(permit) = self.client.room.try_acquire()? else {
            if inbox.call_for_room() {
                let (room, inbox) = (Arc::clone(&self.client.room), Arc::downgrade(inbox));
                self.runtime.spawn(async move {
                    // A client that is closed is news as well.
                    drop(room.acquire().await);
                    if let Some(inbox) = inbox.upgrade() {
                        inbox.room();
                    }
                });
            }
            return Ok(false);
        };
        let slot = inbox.slot(tag);
        match rollout.to_owned() {
            Ok(rollout) => {
                let asked = Asked { slot, rollouts: Arc::clone(rollouts), index };
                // Where the client is closed, the slot is dropped, and has answered so.
                let _ = self.client.hand_over(rollout, issued, deadline, permit, Box::new(asked));
            }
            Err(bad) => slot.resolve(Ok(Err(no_ids(bad)))),
        }
        Ok(true)
    }

    fn wait(&self, inbox: &Arc<Inbox>, longest: Duration) {
        inbox.wait(longest);
    }

    fn cancel(&self, inbox: &Inbox, tags: RangeInclusive<u64>) {
        // Without a driver everything is answered.
        let _ = self.client.send(Command::CancelSeries { series: inbox.series(), tags });
    }

    fn known_card(&self) -> Option<Arc<ServedModel>> {
        self.client.card.borrow().clone()
    }
}
