//! The thread that serves all lanes.
//!
//! It serves one lane after the other as long as one of them has something to read, and for the spin budget longer; then it
//! sleeps until a bell rings, a client comes or goes, a heartbeat is due, or the server is told to end. Each lane gets the same
//! slice of time, so a flood on one delays the others by its slices and by what it has admitted, and no more.
//!
//! Invariant: between two lanes the thread looks at the clock, so that however many are busy, each heartbeat is in time.

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

use super::heartbeats::Heartbeats;
use super::lane::Lane;
use super::ungreeted::Ungreeted;
use super::{Control, Stage, Terms, about};
use crate::shm::Broken;
use crate::shm::handshake::{self, Hello, Peer, Status};
use crate::sidecar::Intake;
use crate::sidecar::accepting::{self, Pauses};
use crate::sidecar::descriptors::Taken;
use crate::sidecar::metrics::{self, LaneEnd};

/// A client that has not greeted within this time is sent away.
const GREETING_TIME: Duration = Duration::from_secs(2);
/// Clients that may have connected without having greeted yet; more are turned away.
const MAX_UNGREETED: usize = 64;
/// While it is busy, the poller looks at the sockets this often.
const SOCKETS_EVERY: Duration = Duration::from_micros(500);
/// Events taken at a time.
const EVENTS: usize = 64;

/// What a client is told whose lane ends, or is not opened, for that reason.
const SHUTTING_DOWN: &str = "the sidecar is shutting down";

/// See the module.
pub(super) struct Poller {
    listener: UnixListener,
    terms: Terms,
    intake: Intake,
    runtime: Handle,
    control: Arc<Control>,
    epoll: OwnedFd,
    lanes: BTreeMap<u64, Lane>,
    heartbeats: Heartbeats,
    ungreeted: BTreeMap<u64, Ungreeted>,
    next: u64,
    /// When connections are accepted again, where they are not now.
    accept_from: Option<Instant>,
    pauses: Pauses,
    /// The generation that all lanes have been told of.
    announced: u64,
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
        let announced = terms.generations.latest().number;
        let poller = Self {
            listener,
            terms,
            intake,
            runtime,
            control,
            epoll,
            lanes: BTreeMap::new(),
            heartbeats: Heartbeats::default(),
            ungreeted: BTreeMap::new(),
            next: 0,
            accept_from: None,
            pauses: Pauses::of("shm"),
            announced,
        };
        poller.watch(&poller.listener, about::LISTENER, EventFlags::IN)?;
        // Edge by edge, like every bell: nobody has to empty it.
        poller.watch(&poller.control.bell, about::CONTROL, EventFlags::IN | EventFlags::ET)?;
        Ok(poller)
    }

    fn watch(&self, what: impl AsFd, about: u64, events: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, what, EventData::new_u64(about), events)?)
    }

    /// Serves until the server ends; how many answers had not been read by then.
    pub(super) fn run(mut self) -> usize {
        let mut active = Instant::now();
        let mut looked = active;
        loop {
            let busy = self.serve_all();
            let now = Instant::now();
            if let Stage::Closing(until) = self.control.stage() {
                self.close_finished();
                if self.lanes.is_empty() || now >= until {
                    break;
                }
            }
            if busy {
                active = now;
            }
            if busy || now - active < self.terms.spin {
                if now - looked >= SOCKETS_EVERY {
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
        let unread = self.lanes.values().map(|lane| lane.outbox().undelivered()).sum();
        for id in self.lanes.keys().copied().collect::<Vec<_>>() {
            self.close(id, LaneEnd::Drained, SHUTTING_DOWN);
        }
        unread
    }

    /// One slice for every lane; whether any had something to read.
    fn serve_all(&mut self) -> bool {
        self.announce();
        let (mut busy, mut broken) = (false, Vec::new());
        for (&id, lane) in &mut self.lanes {
            match lane.serve(&self.intake, &self.runtime) {
                Ok(slice) => {
                    busy |= slice.read;
                    if slice.taken {
                        self.intake.wake();
                    }
                    if slice.withdrawn {
                        self.intake.sweep();
                    }
                }
                Err(why) => broken.push((id, why)),
            }
            self.heartbeats.beat_if_due(Instant::now());
        }
        self.close_broken(broken);
        busy
    }

    /// Tells every client of a new generation, whether it waits for an answer or not.
    fn announce(&mut self) {
        let latest = self.terms.generations.latest().number;
        if latest == self.announced {
            return;
        }
        self.announced = latest;
        let told = self.lanes.iter().map(|(&id, lane)| (id, lane.outbox().announce_latest()));
        let broken = told.filter_map(|(id, told)| Some((id, told.err()?))).collect();
        self.close_broken(broken);
    }

    /// Closes the lanes whose clients have read all that they wait for.
    fn close_finished(&mut self) {
        let (mut finished, mut broken) = (Vec::new(), Vec::new());
        for (&id, lane) in &self.lanes {
            match lane.outbox().is_finished_or_rings() {
                Ok(true) => finished.push(id),
                Ok(false) => {}
                Err(why) => broken.push((id, why)),
            }
        }
        self.close_broken(broken);
        for id in finished {
            self.close(id, LaneEnd::Drained, SHUTTING_DOWN);
        }
    }

    /// Tells every client that it has to ring from now on; whether there is nothing to do by then.
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
        self.heartbeats.remove(id);
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
        let greetings = self.ungreeted.values().map(|client| client.until);
        let end = match self.control.stage() {
            Stage::Closing(until) => Some(until),
            Stage::Serving | Stage::Refusing => None,
        };
        let times = greetings.chain(self.accept_from).chain(self.heartbeats.due()).chain(end);
        times.min().map(|until| until.saturating_duration_since(now))
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
        self.on_time(Instant::now());
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
        // Epoll tells of the others again, after the lanes were served.
        for _ in 0..EVENTS {
            match self.listener.accept() {
                Ok((socket, _)) => self.welcome(socket),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if accepting::client_left(&error) => {}
                Err(error) => {
                    self.pauses.refused(&error);
                    self.accept_from = Some(Instant::now() + accepting::PAUSE);
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
            Some((Status::Draining, SHUTTING_DOWN.to_owned()))
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
            let (theirs, own) = (peer.uid, rustix::process::geteuid().as_raw());
            let why =
                format!("the sidecar runs as user {own}, and this process as user {theirs}; run both as the same user");
            Some((Status::Owner, why))
        } else if self.ungreeted.len() >= MAX_UNGREETED {
            Some((Status::Full, "too many clients are connecting at once".to_owned()))
        } else {
            self.no_lane()
        };
        if let Some((status, reason)) = no {
            metrics::lane_closed(LaneEnd::Refused);
            return handshake::refuse(&socket, status, &reason);
        }
        let Some(descriptors) = self.terms.descriptors.try_lane() else {
            let why = self.terms.descriptors.too_few_for_a_lane(self.lanes.len());
            metrics::lane_closed(LaneEnd::Refused);
            handshake::refuse(&socket, Status::Full, &why);
            return self.pauses.begin(|| why);
        };
        self.pauses.end();
        let id = self.next;
        self.next += 1;
        let watched = self.watch(&socket, id << 2 | about::GREETING, EventFlags::IN | EventFlags::RDHUP);
        if let Err(error) = watched {
            return tracing::warn!(%error, "cannot watch a lane's client");
        }
        let until = Instant::now() + GREETING_TIME;
        let client = Ungreeted { socket, peer, hello: Hello::default(), until, descriptors };
        self.ungreeted.insert(id, client);
        // Mostly the greeting is there already.
        self.greet(id);
    }

    fn greet(&mut self, id: u64) {
        let Some(client) = self.ungreeted.get_mut(&id) else { return };
        let heard = match client.hello.read(&client.socket) {
            Ok(Some(heard)) => heard,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "a lane's client left before it had greeted");
                self.ungreeted.remove(&id);
                return;
            }
        };
        let Some(Ungreeted { socket, peer, descriptors, .. }) = self.ungreeted.remove(&id) else { return };
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
        if let Err(error) = self.open(id, socket, peer, descriptors) {
            tracing::warn!(%error, "cannot open a lane");
        }
    }

    fn open(&mut self, id: u64, socket: UnixStream, peer: Peer, descriptors: Taken) -> io::Result<()> {
        // It is watched as a lane's from now on.
        epoll::delete(&self.epoll, &socket)?;
        let generation = self.terms.generations.latest();
        let card = handshake::Card { generation: generation.number, bytes: &generation.card };
        let sizes = self.terms.sizes(generation.card.len());
        let end = handshake::open(socket, card, sizes, self.terms.in_flight_limit as u32)?;
        let (lane, heartbeat) = Lane::new(end, generation.number, peer, descriptors, &self.terms, &self.control);
        self.watch(lane.line().socket(), id << 2 | about::SOCKET, EventFlags::IN | EventFlags::RDHUP)?;
        if let Some(process) = lane.process() {
            self.watch(process, id << 2 | about::PROCESS, EventFlags::IN)?;
        }
        // Edge by edge: its other holder could make reading it wait. The last of them, since it stays watched until it is
        // taken out.
        self.watch(lane.line().bell(), id << 2 | about::BELL, EventFlags::IN | EventFlags::ET)?;
        tracing::debug!(lane = id, pid = ?peer.pid, "opened a lane");
        self.lanes.insert(id, lane);
        self.heartbeats.add(id, heartbeat);
        Ok(())
    }

    /// What is due by the clock.
    fn on_time(&mut self, now: Instant) {
        self.heartbeats.beat_if_due(now);
        self.ungreeted.retain(|_, client| client.until > now);
        if self.accept_from.is_some_and(|from| from <= now) {
            let watched = self.watch(&self.listener, about::LISTENER, EventFlags::IN);
            self.accept_from = watched.err().map(|_| now + accepting::PAUSE);
        }
    }
}
