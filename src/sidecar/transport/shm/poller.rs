//! The thread that serves all lanes.
//!
//! It goes round the lanes as long as one of them has something to say, and for the spin budget longer; then it sleeps until a
//! bell rings, a client comes or goes, or the server is told to end. Each lane has the same turn, so a flood on one delays the
//! others by its turns and by what it has admitted, and no more.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;
use tokio::runtime::Handle;

use super::lane::Lane;
use super::{Control, Stage, Terms};
use crate::shm::Broken;
use crate::shm::handshake::{self, Hello, Peer, Status};
use crate::sidecar::Intake;
use crate::sidecar::metrics::{self, LaneEnd};

/// A client that has not greeted by then is a stranger.
const GREETING: Duration = Duration::from_secs(2);
/// Clients that have not greeted yet; more are turned away.
const STRANGERS: usize = 64;
/// While it is busy, the poller looks at the sockets this often.
const LOOK: Duration = Duration::from_micros(500);
/// How long it accepts nobody after it could not: without a descriptor to spare, trying at once would never end.
const BREATH: Duration = Duration::from_millis(100);
/// Events taken at a time.
const EVENTS: usize = 64;

/// What an event is about: its two lowest bits say which descriptor, the rest whose.
mod about {
    pub const SOCKET: u64 = 0;
    pub const BELL: u64 = 1;
    pub const PROCESS: u64 = 2;
    pub const GREETING: u64 = 3;
    /// Not a lane's number.
    pub const LISTENER: u64 = u64::MAX;
    pub const CONTROL: u64 = u64::MAX - 1;
}

/// See the module.
pub(super) struct Poller {
    listener: UnixListener,
    terms: Terms,
    intake: Intake,
    runtime: Handle,
    control: Arc<Control>,
    epoll: OwnedFd,
    lanes: BTreeMap<u64, Lane>,
    strangers: BTreeMap<u64, Stranger>,
    next: u64,
    /// Whether it listens; and if not, until when.
    deaf_until: Option<Instant>,
}

/// A client that has connected and not greeted yet.
struct Stranger {
    socket: UnixStream,
    peer: Peer,
    hello: Hello,
    until: Instant,
}

impl Poller {
    pub(super) fn new(
        listener: UnixListener,
        terms: Terms,
        intake: Intake,
        runtime: Handle,
        control: Arc<Control>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let (lanes, strangers) = (BTreeMap::new(), BTreeMap::new());
        let poller =
            Self { listener, terms, intake, runtime, control, epoll, lanes, strangers, next: 0, deaf_until: None };
        poller.watch(&poller.listener, about::LISTENER, EventFlags::IN)?;
        // Edge by edge, like every bell: nobody has to empty it.
        poller.watch(&poller.control.bell, about::CONTROL, EventFlags::IN | EventFlags::ET)?;
        Ok(poller)
    }

    fn watch(&self, what: impl AsFd, about: u64, events: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, what, EventData::new_u64(about), events)?)
    }

    /// Serves until the server ends.
    pub(super) fn run(mut self) {
        let mut active = Instant::now();
        let mut looked = active;
        while self.control.stage() != Stage::Ended {
            let busy = self.round();
            let now = Instant::now();
            if busy {
                active = now;
            }
            if busy || now - active < self.terms.spin {
                if now - looked >= LOOK {
                    self.look(Some(Duration::ZERO));
                    looked = now;
                } else if !busy {
                    std::hint::spin_loop();
                }
                continue;
            }
            // The sockets are looked at either way: a client may say something at just this moment each time.
            let idle = self.going_to_sleep();
            self.look(if idle { self.longest_sleep(now) } else { Some(Duration::ZERO) });
            self.lanes.values().for_each(Lane::awake);
            looked = Instant::now();
        }
        for id in self.lanes.keys().copied().collect::<Vec<_>>() {
            self.close(id, LaneEnd::Drained, "the sidecar is shutting down");
        }
    }

    /// One turn for every lane; whether any had something to say.
    fn round(&mut self) -> bool {
        let (mut busy, mut broken) = (false, Vec::new());
        for (&id, lane) in &mut self.lanes {
            match lane.turn(&self.intake, &self.runtime) {
                Ok(turn) => {
                    busy |= turn.read;
                    if turn.taken {
                        self.intake.wake();
                    }
                }
                Err(why) => broken.push((id, why)),
            }
        }
        self.close_broken(broken);
        busy
    }

    /// Tells every client that it has to ring from now on. Whether there is nothing to do by then.
    fn going_to_sleep(&mut self) -> bool {
        let (mut idle, mut broken) = (true, Vec::new());
        for (&id, lane) in &mut self.lanes {
            match lane.going_to_sleep() {
                Ok(ready) => idle &= !ready,
                Err(why) => broken.push((id, why)),
            }
        }
        idle &= broken.is_empty();
        self.close_broken(broken);
        idle
    }

    fn close_broken(&mut self, broken: Vec<(u64, Broken)>) {
        for (id, why) in broken {
            tracing::warn!(lane = id, %why, "a client broke its lane's rules; the lane is closed");
            self.close(id, LaneEnd::Broken, &format!("the client broke the lane's rules: {why}"));
        }
    }

    fn close(&mut self, id: u64, end: LaneEnd, why: &str) {
        if let Some(lane) = self.lanes.remove(&id) {
            metrics::lane_closed(end);
            // Closing is not enough: its other holder would keep it watched, and ring it.
            let _ = epoll::delete(&self.epoll, lane.line().bell());
            lane.close(why);
            // What was admitted for it makes room for others at once.
            self.intake.sweep();
        }
    }

    /// Until when to sleep at most; `None`: until something happens.
    fn longest_sleep(&self, now: Instant) -> Option<Duration> {
        let greetings = self.strangers.values().map(|stranger| stranger.until);
        greetings.chain(self.deaf_until).min().map(|until| until.saturating_duration_since(now))
    }

    /// Waits for events, and deals with them.
    fn look(&mut self, longest: Option<Duration>) {
        let longest = longest.and_then(|longest| Timespec::try_from(longest).ok());
        let mut space = [MaybeUninit::<Event>::uninit(); EVENTS];
        let events = match epoll::wait(&self.epoll, &mut space, longest.as_ref()) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => &mut [],
            Err(error) => {
                // The descriptors are this thread's own; there is no other reason that could go away.
                tracing::error!(%error, "the lanes' thread cannot wait");
                &mut []
            }
        };
        for event in events {
            self.handle(event.data.u64());
        }
        if !self.strangers.is_empty() || self.deaf_until.is_some() {
            self.on_time(Instant::now());
        }
    }

    fn handle(&mut self, about: u64) {
        match about {
            about::LISTENER => self.accept(),
            about::CONTROL => {}
            about => match (about >> 2, about & 3) {
                (id, about::GREETING) => self.greet(id),
                // Rung: the next round reads it.
                (_, about::BELL) => {}
                (id, about::SOCKET) => self.hang_up(id, "its connection ended"),
                (id, _) => self.hang_up(id, "its process ended"),
            },
        }
    }

    /// A client that leaves needs no word; one that says something on the line breaks the rules.
    fn hang_up(&mut self, id: u64, how: &str) {
        if self.lanes.contains_key(&id) {
            tracing::debug!(lane = id, how, "a client left");
            self.close(id, LaneEnd::HungUp, "a lane's connection carries nothing; close it to leave");
        }
    }

    fn accept(&mut self) {
        // Whoever is left over is announced again, after the lanes have had their turns.
        for _ in 0..EVENTS {
            match self.listener.accept() {
                Ok((socket, _)) => self.welcome(socket),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a lane's client");
                    self.deaf_until = Some(Instant::now() + BREATH);
                    // Fails only where it is not watched.
                    let _ = epoll::delete(&self.epoll, &self.listener);
                    return;
                }
            }
        }
    }

    /// Why no lane is opened now, if so.
    fn no_lane(&self) -> Option<(Status, String)> {
        if self.control.stage() != Stage::Serving {
            Some((Status::Draining, "the sidecar is shutting down".to_owned()))
        } else if self.lanes.len() >= self.terms.lanes {
            Some((Status::Full, format!("all {} lanes are taken (shm_lanes)", self.terms.lanes)))
        } else {
            None
        }
    }

    fn welcome(&mut self, socket: UnixStream) {
        let peer = match socket.set_nonblocking(true).and_then(|()| Peer::of(&socket)) {
            Ok(peer) => peer,
            Err(error) => return tracing::debug!(%error, "a lane's client left at once"),
        };
        let no = if !peer.is_trusted() {
            tracing::warn!(uid = peer.uid, "another user's process asked for a lane and was refused");
            Some((Status::Failed, "the sidecar belongs to another user".to_owned()))
        } else if self.strangers.len() >= STRANGERS {
            Some((Status::Full, "too many clients are connecting at once".to_owned()))
        } else {
            self.no_lane()
        };
        if let Some((status, reason)) = no {
            metrics::lane_closed(LaneEnd::Refused);
            return handshake::refuse(&socket, status, &reason);
        }
        let id = self.next;
        self.next += 1;
        let watched = self.watch(&socket, id << 2 | about::GREETING, EventFlags::IN | EventFlags::RDHUP);
        if let Err(error) = watched {
            return tracing::warn!(%error, "cannot watch a lane's client");
        }
        let stranger = Stranger { socket, peer, hello: Hello::default(), until: Instant::now() + GREETING };
        self.strangers.insert(id, stranger);
        // Mostly the greeting is there already.
        self.greet(id);
    }

    fn greet(&mut self, id: u64) {
        let Some(stranger) = self.strangers.get_mut(&id) else { return };
        let heard = match stranger.hello.read(&stranger.socket) {
            Ok(Some(heard)) => heard,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "a lane's client left before it had greeted");
                self.strangers.remove(&id);
                return;
            }
        };
        let Some(Stranger { socket, peer, .. }) = self.strangers.remove(&id) else { return };
        if let Err(reason) = heard {
            tracing::warn!(%reason, "a lane was refused");
            metrics::lane_closed(LaneEnd::Refused);
            return handshake::refuse(&socket, Status::Version, &reason);
        }
        // Others may have greeted before it.
        if let Some((status, reason)) = self.no_lane() {
            metrics::lane_closed(LaneEnd::Refused);
            return handshake::refuse(&socket, status, &reason);
        }
        if let Err(error) = self.open(id, socket, peer) {
            tracing::warn!(%error, "cannot open a lane");
        }
    }

    fn open(&mut self, id: u64, socket: UnixStream, peer: Peer) -> io::Result<()> {
        // It is watched as a lane's from now on.
        epoll::delete(&self.epoll, &socket)?;
        let end = handshake::open(socket, &self.terms.card, self.terms.sizes, self.terms.in_flight_limit as u32)?;
        let lane = Lane::new(end, peer, &self.terms, &self.control);
        self.watch(lane.line().socket(), id << 2 | about::SOCKET, EventFlags::IN | EventFlags::RDHUP)?;
        if let Some(process) = lane.process() {
            self.watch(process, id << 2 | about::PROCESS, EventFlags::IN)?;
        }
        // Edge by edge: its other holder could make reading it wait. The last of them, since it stays watched until it is
        // taken out.
        self.watch(lane.line().bell(), id << 2 | about::BELL, EventFlags::IN | EventFlags::ET)?;
        tracing::debug!(lane = id, pid = ?peer.pid, "opened a lane");
        self.lanes.insert(id, lane);
        Ok(())
    }

    /// What is due by the clock.
    fn on_time(&mut self, now: Instant) {
        self.strangers.retain(|_, stranger| stranger.until > now);
        if self.deaf_until.is_some_and(|until| until <= now) {
            self.deaf_until = self.watch(&self.listener, about::LISTENER, EventFlags::IN).err().map(|_| now + BREATH);
        }
    }
}
