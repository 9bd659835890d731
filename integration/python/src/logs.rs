//! What the client reports (a lost connection, a server that came back with another model, giving up), on its way to Python's
//! `logging`.
//!
//! Invariant: reporting never waits, for the interpreter's lock least of all. Reports lie in a bounded queue until a thread
//! that holds that lock takes them out.

use std::collections::VecDeque;
use std::fmt::{Debug, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError, TryLockError};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use tracing::dispatcher::{self, Dispatch};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Most reports that wait: what comes beyond them is counted.
const MOST: usize = 256;

/// How often a report tries to get into the queue, which is locked for a few instructions at a time. A fork may have copied it
/// while it was locked: then nobody will ever unlock it in the child.
const TRIES: usize = 1000;

/// Levels of Python's `logging`.
const WARNING: u8 = 30;
const ERROR: u8 = 40;

static QUEUE: Mutex<VecDeque<Report>> = Mutex::new(VecDeque::new());

/// Reports in the queue, so that it need not be locked to see that there is none.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Reports for which there was no place.
static DROPPED: AtomicUsize = AtomicUsize::new(0);

struct Report {
    level: u8,
    text: String,
}

/// Made when the module is imported, with the interpreter's lock held: no fork finds it half made.
static DISPATCH: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(Reports));

/// Makes ready for [`reporting`].
pub fn start() {
    LazyLock::force(&DISPATCH);
}

/// Does some of the client's work, whose reports, and those of threads that it starts, go to Python.
pub fn reporting<T>(work: impl FnOnce() -> T) -> T {
    dispatcher::with_default(&DISPATCH, work)
}

/// Whether [`deliver`] would have something to do.
pub fn is_waiting() -> bool {
    WAITING.load(Ordering::Relaxed) > 0 || DROPPED.load(Ordering::Relaxed) > 0
}

/// Hands what has been reported to `logging`, whose handlers may do as they please.
pub fn deliver(py: Python<'_>) -> PyResult<()> {
    if !is_waiting() {
        return Ok(());
    }
    let Some(mut queue) = lock() else { return Ok(()) };
    let reports = std::mem::take(&mut *queue);
    WAITING.store(0, Ordering::Relaxed);
    drop(queue);
    let logger = logger(py)?;
    let log = |level: u8, text: &str| logger.call_method1(intern!(py, "log"), (level, text)).map(drop);
    for Report { level, text } in &reports {
        log(*level, text)?;
    }
    match DROPPED.swap(0, Ordering::Relaxed) {
        0 => Ok(()),
        dropped => log(WARNING, &format!("{dropped} more reports were dropped")),
    }
}

fn logger(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static LOGGER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let get = || Ok(py.import("logging")?.call_method1("getLogger", ("reward_sidecar",))?.unbind());
    LOGGER.get_or_try_init(py, get).map(|logger| logger.bind(py))
}

fn lock() -> Option<MutexGuard<'static, VecDeque<Report>>> {
    for _ in 0..TRIES {
        match QUEUE.try_lock() {
            Ok(queue) => return Some(queue),
            // Nothing that holds the lock panics with the queue half changed.
            Err(TryLockError::Poisoned(poisoned)) => return Some(PoisonError::into_inner(poisoned)),
            Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
        }
    }
    None
}

/// Takes warnings and errors of this project, and nothing else.
struct Reports;

impl Subscriber for Reports {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN && metadata.target().starts_with("reward_sidecar")
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let level = if *event.metadata().level() == Level::ERROR { ERROR } else { WARNING };
        let report = Report { level, text: text.message + &text.fields };
        match lock() {
            Some(mut queue) if queue.len() < MOST => {
                queue.push_back(report);
                WAITING.store(queue.len(), Ordering::Relaxed);
            }
            _ => drop(DROPPED.fetch_add(1, Ordering::Relaxed)),
        }
    }

    // Spans are not reported.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// An event as a line.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
