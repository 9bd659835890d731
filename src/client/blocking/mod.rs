//! A client for threads that wait: the same promise as the client for tasks, and a second way to keep it.
//!
//! | address | arm |
//! |---|---|
//! | `shm:///path/of/socket` | a lane in shared memory, on the same host |
//! | `grpc://host:port`, `http://host:port`, `unix:///path/of/socket` | a gRPC stream, driven by a thread of its own |
//!
//! ```no_run
//! use std::sync::Arc;
//! use reward_sidecar::client::blocking::Client;
//! use reward_sidecar::rollout::{Input, Rollout};
//!
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("unix:///run/reward.sock")?;
//! let rollouts = vec![Rollout { input: Some(Input::Text("...".into())), ..Rollout::default() }];
//! for outcome in client.score_all(Arc::new(rollouts), &mut || true)? {
//!     println!("{}", outcome?.reward);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Rollouts are borrowed from their owner ([`Rollouts`]), which must answer [`Rollouts::get`] from any thread until the
//! answers are there.
//!
//! Invariant: a thread that waits here asks its caller, at least every 50 ms, whether to go on.

mod answers;
mod grpc;
mod inbox;
#[cfg(target_os = "linux")]
mod lane;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::link::Address;
use crate::client::{BackOff, Builder as Options, Client as TaskClient, ClientError, KeepAlive, ServedModel};
use crate::client::{Version, VersionPin};
use crate::reward::{Code, Outcome, Rejection};
use crate::rollout::{BadId, Rollouts};

use self::grpc::Grpc;
use self::inbox::Inbox;
#[cfg(target_os = "linux")]
use self::lane::{Lane, LaneOptions};

pub use self::answers::{Answers, Submitter};

/// Longest time for which a thread waits without asking whether to go on.
const PULSE: Duration = Duration::from_millis(50);

/// Asked at least every 50 ms while a thread waits; `false` ends the wait with [`Stopped::Interrupted`].
pub type Check<'a> = &'a mut dyn FnMut() -> bool;

/// Why a wait ended without what it was for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// The [`Check`] said so.
    #[error("interrupted")]
    Interrupted,
    /// The client failed.
    #[error(transparent)]
    Failed(#[from] ClientError),
}

/// What an arm has to do.
trait Wire: std::fmt::Debug + Send + Sync {
    /// As the user wrote it.
    fn address(&self) -> &str;

    /// What the server serves, as of the latest connection; waits for the first.
    fn card(&self, check: Check<'_>) -> Result<Arc<ServedModel>, Stopped>;

    /// Takes a rollout whose answer will be in the inbox with this tag, or says that there is no room for it now.
    /// `issued` is when the user asked.
    fn try_submit(
        &self,
        inbox: &Arc<Inbox>,
        rollouts: &Arc<dyn Rollouts>,
        index: usize,
        tag: u64,
        issued: Instant,
    ) -> Result<bool, ClientError>;

    /// Returns when the inbox has an answer, when there may be room for what was not taken, or after `longest`; or
    /// earlier, for no reason. No time at all is time to look.
    fn wait(&self, inbox: &Arc<Inbox>, longest: Duration);

    /// Withdraws the unanswered rollouts of the inbox with these tags: each is answered `CANCELLED`, its room is free, and the
    /// server is told not to score it if that has not begun.
    fn cancel(&self, inbox: &Inbox, tags: RangeInclusive<u64>);

    /// What the server serves, if it was ever reached. Does not wait.
    fn known_card(&self) -> Option<Arc<ServedModel>>;
}

/// A client of one server. Clones share one connection, and may be used from any thread.
///
/// When the last clone is dropped, and the last [`Answers`], the connection is closed.
#[derive(Debug, Clone)]
pub struct Client(Arc<dyn Wire>, Version);

/// How a client is to be made.
#[derive(Debug, Clone)]
pub struct Builder {
    options: Options,
    #[cfg(target_os = "linux")]
    lane: LaneOptions,
}

/// The arm that an address asks for.
enum Arm {
    #[cfg(target_os = "linux")]
    Lane(PathBuf),
    Grpc(Box<Address>),
}

impl Arm {
    fn of(address: &str) -> Result<Self, ClientError> {
        let bad = |reason: &str| ClientError::BadAddress { address: address.into(), reason: reason.into() };
        match address.split_once("://") {
            Some(("shm", path)) if !path.starts_with('/') || path.len() < 2 => {
                Err(bad("the path of a Unix socket must be absolute"))
            }
            #[cfg(target_os = "linux")]
            Some(("shm", path)) => Ok(Self::Lane(path.into())),
            #[cfg(not(target_os = "linux"))]
            Some(("shm", _)) => Err(bad("shared memory needs Linux")),
            _ => Ok(Self::Grpc(Box::new(Address::parse(address)?))),
        }
    }
}

impl Builder {
    /// The model, by its name, that scores rollouts which name none, and whose card [`Client::card`] is. Default: the server's first.
    /// Not over a lane, which is the first model's.
    pub fn model(self, name: impl Into<String>) -> Self {
        Self { options: self.options.model(name), ..self }
    }

    /// Most rollouts unanswered at a time; the server's limit counts where it is lower (and is the default).
    pub fn in_flight_limit(self, rollouts: usize) -> Self {
        Self { options: self.options.in_flight_limit(rollouts), ..self }
    }

    /// How often, and how long, to try a server that does not answer.
    pub fn back_off(self, back_off: BackOff) -> Self {
        Self { options: self.options.back_off(back_off), ..self }
    }

    /// How long to wait, before the first connection, for a Unix socket that does not exist: mostly its path is mistyped.
    /// Default: 2 s. A socket that was there once is waited for as long as [`BackOff`] allows.
    pub fn socket_timeout(self, socket_timeout: Duration) -> Self {
        Self { options: self.options.socket_timeout(socket_timeout), ..self }
    }

    /// The deadline of rollouts that bring none of their own, in whole milliseconds. Default: none.
    pub fn deadline(self, deadline: Duration) -> Self {
        Self { options: self.options.deadline(deadline), ..self }
    }

    /// Which model version is to answer the rollouts of one [`Client::score_all`]. Default: that of its first rewards.
    pub fn version(self, version: Version) -> Self {
        Self { options: self.options.version(version), ..self }
    }

    /// How soon a server that hangs counts as lost. gRPC only; a lane has a heartbeat.
    pub fn keep_alive(self, keep_alive: KeepAlive) -> Self {
        Self { options: self.options.keep_alive(keep_alive), ..self }
    }

    /// How long to watch a lane for an answer before sleeping. Lanes only.
    #[cfg_attr(not(target_os = "linux"), expect(unused_mut, unused_variables, reason = "there are no lanes"))]
    pub fn spin(mut self, spin: Duration) -> Self {
        #[cfg(target_os = "linux")]
        {
            self.lane.spin = Some(spin);
        }
        self
    }

    /// How long a server's heartbeat may stand still before the server counts as lost, and is connected to anew. Lanes only.
    /// Default: 8 s; at least 2 s, the longest pause of a server that runs.
    #[cfg_attr(not(target_os = "linux"), expect(unused_mut, unused_variables, reason = "there are no lanes"))]
    pub fn heartbeat_timeout(mut self, timeout: Duration) -> Self {
        #[cfg(target_os = "linux")]
        {
            self.lane.heartbeat_timeout = Some(timeout);
        }
        self
    }

    /// Whether the address can be understood. Connects nothing.
    pub fn check(&self) -> Result<(), ClientError> {
        self.arm().map(drop)
    }

    fn arm(&self) -> Result<Arm, ClientError> {
        let Options { address, model, .. } = &self.options;
        match Arm::of(address)? {
            #[cfg(target_os = "linux")]
            Arm::Lane(_) if !model.is_empty() => Err(ClientError::BadAddress {
                address: address.as_str().into(),
                reason: format!(
                    "a lane is the server's first model's, and '{model}' is asked for; use unix:// or grpc://"
                ),
            }),
            arm => Ok(arm),
        }
    }

    /// Connects, and returns once the server has said what it serves.
    pub fn connect(self) -> Result<Client, ClientError> {
        let client = self.connect_lazy()?;
        match client.card(&mut || true) {
            Ok(_) => Ok(client),
            Err(Stopped::Failed(error)) => Err(error),
            Err(Stopped::Interrupted) => unreachable!("nothing interrupts"),
        }
    }

    /// Returns at once and connects in the background; trouble shows with the first rollout.
    pub fn connect_lazy(self) -> Result<Client, ClientError> {
        let wire: Arc<dyn Wire> = match self.arm()? {
            #[cfg(target_os = "linux")]
            Arm::Lane(path) => Arc::new(Lane::new(&self.options, self.lane, &path)),
            Arm::Grpc(address) => Arc::new(Grpc::start(&self.options, *address)?),
        };
        Ok(Client(wire, self.options.version))
    }
}

impl Client {
    /// Connects with every default.
    ///
    /// A server that is not there yet is waited for as long as [`BackOff`] allows.
    pub fn connect(address: impl Into<String>) -> Result<Self, ClientError> {
        Self::builder(address).connect()
    }

    /// A client to be configured.
    pub fn builder(address: impl Into<String>) -> Builder {
        Builder {
            options: TaskClient::builder(address),
            #[cfg(target_os = "linux")]
            lane: LaneOptions::default(),
        }
    }

    /// The address, as it was given.
    pub fn address(&self) -> &str {
        self.0.address()
    }

    /// What the server serves, and on which terms; as of the latest connection.
    pub fn card(&self, check: Check<'_>) -> Result<Arc<ServedModel>, Stopped> {
        self.0.card(check)
    }

    /// The same, if the server was ever reached. Does not wait.
    pub fn known_card(&self) -> Option<Arc<ServedModel>> {
        self.0.known_card()
    }

    /// A series of rollouts to be answered as they finish.
    pub fn answers(&self) -> Answers {
        Answers::new(Arc::clone(&self.0))
    }

    /// Scores all, pipelined; the outcomes are in the order of the rollouts, and of one model version ([`Builder::version`]).
    /// Their deadlines count from this call. Ends with the first [`ClientError`].
    pub fn score_all(&self, rollouts: Arc<dyn Rollouts>, check: Check<'_>) -> Result<Vec<Outcome>, Stopped> {
        let (issued, pin) = (Instant::now(), VersionPin::new(self.1.clone()));
        let mut answers = self.answers();
        let mut outcomes = vec![None; rollouts.len()];
        let mut next = 0;
        loop {
            while next < outcomes.len() && answers.try_submit_since(&rollouts, next, next as u64, issued)? {
                next += 1;
            }
            match answers.next(check)? {
                Some((tag, answer)) => outcomes[tag as usize] = Some(pin.check(answer)?),
                None if next < outcomes.len() => {
                    // Others have taken all the room.
                    answers.submit_since(&rollouts, next, next as u64, issued, check)?;
                    next += 1;
                }
                None => break,
            }
        }
        Ok(outcomes.into_iter().map(|outcome| outcome.expect("each was submitted, and none is unanswered")).collect())
    }
}

/// What becomes of a rollout with an id that no vocabulary has: the server is not asked.
fn no_ids(bad: BadId) -> Rejection {
    Rejection::new(Code::TokenOutOfRange, bad.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_checked_without_a_connection() {
        for good in ["shm:///run/reward.sock", "unix:///run/reward.sock", "grpc://127.0.0.1:1"] {
            assert_eq!(Client::builder(good).check(), Ok(()));
        }
        for bad in ["reward.sock", "tcp://127.0.0.1:1", "grpc://host", "shm://run/reward.sock", "shm:///"] {
            assert!(matches!(Client::builder(bad).check(), Err(ClientError::BadAddress { .. })), "{bad}");
        }
    }
}
