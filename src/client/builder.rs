//! How a client is made.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::Client;
use super::back_off::{BackOff, SOCKET_TIMEOUT};
use super::command::Config;
use super::driver::Driver;
use super::error::ClientError;
use super::link::{Address, KeepAlive};
use super::room::Room;
use super::version::Version;
use crate::limits::MAX_STREAM_IN_FLIGHT;

/// How a client is to be made.
#[derive(Debug, Clone)]
pub struct Builder {
    pub(super) address: String,
    pub(super) model: String,
    pub(super) in_flight_limit: usize,
    pub(super) back_off: BackOff,
    pub(super) deadline: Option<Duration>,
    pub(super) keep_alive: KeepAlive,
    pub(super) version: Version,
    pub(super) socket_timeout: Duration,
}

impl Builder {
    pub(super) fn new(address: String) -> Self {
        Self {
            address,
            model: String::new(),
            in_flight_limit: MAX_STREAM_IN_FLIGHT,
            back_off: BackOff::default(),
            deadline: None,
            keep_alive: KeepAlive::default(),
            version: Version::default(),
            socket_timeout: SOCKET_TIMEOUT,
        }
    }

    /// The model, by its name, that scores rollouts which name none, and whose card [`Client::card`] is. Default: the server's first.
    /// A name that the server does not have is [`ClientError::Refused`].
    pub fn model(self, name: impl Into<String>) -> Self {
        Self { model: name.into(), ..self }
    }

    /// Most rollouts unanswered at a time; the server's limit counts where it is lower (and is the default).
    pub fn in_flight_limit(self, rollouts: usize) -> Self {
        Self { in_flight_limit: rollouts.clamp(1, MAX_STREAM_IN_FLIGHT), ..self }
    }

    /// How often, and how long, to try a server that does not answer.
    pub fn back_off(self, back_off: BackOff) -> Self {
        Self { back_off, ..self }
    }

    /// How long to wait, before the first connection, for a Unix socket that does not exist: mostly its path is mistyped.
    /// Default: 2 s. A socket that was there once is waited for as long as [`BackOff`] allows.
    pub fn socket_timeout(self, socket_timeout: Duration) -> Self {
        Self { socket_timeout, ..self }
    }

    /// The deadline of rollouts that bring none of their own, in whole milliseconds from their submission. Default: none.
    pub fn deadline(self, deadline: Duration) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// Which model version is to answer the rollouts of one call that scores several. Default: that of its first rewards.
    pub fn version(self, version: Version) -> Self {
        Self { version, ..self }
    }

    /// How soon a server that hangs counts as lost. Default: after 8 s.
    pub fn keep_alive(self, keep_alive: KeepAlive) -> Self {
        Self { keep_alive, ..self }
    }

    /// Connects, and returns once the server has said what it serves.
    ///
    /// # Errors
    /// [`ClientError::BadAddress`], or why there is no connection.
    pub async fn connect(self) -> Result<Client, ClientError> {
        let client = self.connect_lazy()?;
        client.card().await?;
        Ok(client)
    }

    /// Returns at once and connects in the background; failures show with the first rollout.
    ///
    /// # Errors
    /// [`ClientError::BadAddress`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn connect_lazy(self) -> Result<Client, ClientError> {
        let (client, driver) = self.parts(Address::parse(&self.address)?);
        tokio::spawn(driver.run());
        Ok(client)
    }

    /// A client, and what has to run for it.
    pub(super) fn parts(&self, address: Address) -> (Client, Driver) {
        let config = Arc::new(Config {
            address: address.with_keep_alive(self.keep_alive),
            model: self.model.clone(),
            in_flight_limit: self.in_flight_limit,
            back_off: self.back_off,
            // Beyond the number's range it is no deadline that anybody will see.
            deadline_ms: self.deadline.and_then(|deadline| u64::try_from(deadline.as_millis()).ok()),
            version: self.version.clone(),
            socket_timeout: self.socket_timeout,
        });
        let room = Room::new(config.room());
        let (commands, inbox) = mpsc::unbounded_channel();
        let (publish, card) = watch::channel(None);
        let driver = Driver::new(config.clone(), inbox, Arc::clone(&room), publish);
        (Client { config, commands, room, next: Arc::new(AtomicU64::new(0)), card }, driver)
    }
}
