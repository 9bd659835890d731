//! `Client`, as far as it is Rust: options, the connection of this process, `score` and `stream`.
//!
//! Invariant: a connection belongs to the process that made it; a child that was forked makes its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};
use reward_sidecar::client::blocking;
use reward_sidecar::client::{BackOff, ClientError, ServedModel};

use crate::batch::Batch;
use crate::error::Failure;
use crate::gathered::{Terms, gather};
use crate::guard::Guard;
use crate::logs;
use crate::options::Options;
use crate::owners::DropOwners;
use crate::process::OfThisProcess;
use crate::progress::Progress;
use crate::rows::Request;
use crate::stream::Stream;
use crate::tokenizer;
use crate::wait::{Limit, in_time, wait};

/// The native half of `reward_sidecar.Client`.
#[pyclass(frozen, subclass, module = "reward_sidecar._native")]
pub struct Client {
    settings: Settings,
    /// Locked with the interpreter's lock held, and never while that is given up: so it is free in a child, too.
    connection: Mutex<Connection>,
    /// Says whether the server that this client belongs to has ended; see [`Guard`].
    watch: PyOnceLock<Py<PyAny>>,
}

/// What a client is made with, and made again in another process.
struct Settings {
    address: String,
    in_flight_limit: Option<usize>,
    deadline_ms: Option<u64>,
    spin_us: Option<u64>,
    /// `None`: the default, and a socket that does not exist is not waited for as long.
    connect_timeout_s: Option<f64>,
    version: Option<String>,
    /// The model, by its name, where the server has several.
    model: Option<String>,
    /// What token ids are of, where a call does not say.
    tokenizer: Option<Py<PyAny>>,
}

enum Connection {
    NotYet,
    Open(OfThisProcess<blocking::Client>),
    Closed,
}

impl Settings {
    fn builder(&self) -> PyResult<blocking::Builder> {
        let mut builder = blocking::Client::builder(&self.address).model(self.model.clone().unwrap_or_default());
        if let Some(seconds) = self.connect_timeout_s {
            let budget = Duration::try_from_secs_f64(seconds).map_err(|_| {
                PyValueError::new_err(format!("connect_timeout_s is {seconds}; give seconds, at least 0"))
            })?;
            builder = builder.back_off(BackOff { budget, ..BackOff::default() }).socket_timeout(budget);
        }
        if let Some(rollouts) = self.in_flight_limit {
            builder = builder.in_flight_limit(rollouts);
        }
        if let Some(milliseconds) = self.deadline_ms {
            builder = builder.deadline(Duration::from_millis(milliseconds));
        }
        if let Some(microseconds) = self.spin_us {
            builder = builder.spin(Duration::from_micros(microseconds));
        }
        Ok(builder)
    }
}

impl Client {
    /// The connection of this process, which is made when there is none.
    pub fn connection(&self, py: Python<'_>) -> PyResult<blocking::Client> {
        let failed = |error: ClientError| Failure::from(&error).raised(py);
        {
            let connection = self.lock();
            match &*connection {
                Connection::Open(client) => {
                    if let Some(client) = client.get() {
                        return Ok(client.clone());
                    }
                }
                Connection::Closed => {
                    drop(connection);
                    return Err(failed(ClientError::Closed));
                }
                Connection::NotYet => {}
            }
        }
        let client =
            logs::reporting(|| self.settings.builder().map(blocking::Builder::connect_lazy))?.map_err(failed)?;
        *self.lock() = Connection::Open(OfThisProcess::new(client.clone()));
        Ok(client)
    }

    /// For one call.
    pub fn guard(&self, py: Python<'_>) -> Guard {
        Guard::new(self.watch.get(py).map(|watch| watch.clone_ref(py)))
    }

    /// What token ids are of: a call's own tokenizer, or the client's.
    pub fn tokenizer<'py>(&self, own: Option<Bound<'py, PyAny>>, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        own.or_else(|| self.settings.tokenizer.as_ref().map(|tokenizer| tokenizer.bind(py).clone()))
    }

    /// The version that a call is held to that does not say itself.
    pub fn version(&self) -> Option<&str> {
        self.settings.version.as_deref()
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // Nothing that holds it panics.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Client {
    #[new]
    #[pyo3(signature = (address, *, in_flight_limit=None, deadline_ms=None, spin_us=None, connect_timeout_s=None,
        version=None, model=None, tokenizer=None))]
    #[expect(clippy::too_many_arguments, reason = "they are Python's, by their names")]
    fn new(
        py: Python<'_>,
        address: String,
        in_flight_limit: Option<usize>,
        deadline_ms: Option<u64>,
        spin_us: Option<u64>,
        connect_timeout_s: Option<f64>,
        version: Option<String>,
        model: Option<String>,
        tokenizer: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let settings =
            Settings { address, in_flight_limit, deadline_ms, spin_us, connect_timeout_s, version, model, tokenizer };
        settings.builder()?.check().map_err(|error| Failure::from(&error).raised(py))?;
        Ok(Self { settings, connection: Mutex::new(Connection::NotYet), watch: PyOnceLock::new() })
    }

    fn __getnewargs_ex__<'py>(&self, py: Python<'py>) -> PyResult<((&str,), Bound<'py, PyDict>)> {
        let settings = &self.settings;
        let options = PyDict::new(py);
        options.set_item("in_flight_limit", settings.in_flight_limit)?;
        options.set_item("deadline_ms", settings.deadline_ms)?;
        options.set_item("spin_us", settings.spin_us)?;
        options.set_item("connect_timeout_s", settings.connect_timeout_s)?;
        options.set_item("version", &settings.version)?;
        options.set_item("model", &settings.model)?;
        options.set_item("tokenizer", &settings.tokenizer)?;
        Ok(((&settings.address,), options))
    }

    /// The address, as it was given.
    ///
    /// `Client("unix:///run/reward.sock").address` is `"unix:///run/reward.sock"`.
    #[getter]
    fn address(&self) -> &str {
        &self.settings.address
    }

    /// What token ids are of, where a call does not say.
    #[getter]
    fn _tokenizer(&self) -> Option<&Py<PyAny>> {
        self.settings.tokenizer.as_ref()
    }

    /// From now on `watch()` is asked while a call waits: a str is why the server will not answer any more.
    fn _watch(&self, py: Python<'_>, watch: Py<PyAny>) {
        // Once, by `Server.client`.
        let _ = self.watch.set(py, watch);
    }

    /// What the server serves, field by field.
    #[pyo3(signature = (timeout=None))]
    fn _card<'py>(&self, py: Python<'py>, timeout: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyDict>> {
        let limit = Limit::of(timeout)?;
        let client = self.connection(py)?;
        card_of(py, &*in_time(py, limit, &self.guard(py), |check| client.card(check))?)
    }

    /// Scores rollouts, and returns when all are answered.
    ///
    /// What is to be scored is given in exactly one form; `n` is the number of rollouts:
    ///
    /// - `prompts` and `completions`: n of each. A prompt is a str, which is what a user says, or a list of messages; a
    ///   completion is a str, or a list of messages of which the last is the assistant's. The model's chat template is applied.
    ///   A message is a dict with a `role` and whatever the template reads: `content` (a str, or parts that are texts), `name`,
    ///   `tool_calls`, `tool_call_id`, `reasoning_content`, ...
    /// - `messages`: n whole conversations; the last message of each, the assistant's, is its completion.
    /// - `texts`: n str that carry the template already.
    /// - `input_ids`: token ids of n conversations: a list of arrays or lists, an array [n, length], or a tuple of all ids in
    ///   one array [total] and the offsets [n + 1] at which rows begin and end.
    /// - `prompt_ids` and `completion_ids`: the same, prompt and completion apart.
    ///
    /// A trainer that scores prompt + completion as they are, TRL for instance, scores `texts`: its strings carry the template.
    ///
    /// An array [n, length] is mostly padded, on the left, on the right, or on both sides. What counts of it is said by
    ///
    /// - `attention_mask`, of the same shape: of `input_ids`, or of prompt and completion one behind the other; or apart by
    ///   `prompt_mask` and `completion_mask`;
    /// - or `lengths` (`prompt_lengths`, `completion_lengths`): how many ids of each row count. The padding is one id on one side
    ///   of all rows, and is found there.
    ///
    /// Without them an array that looks padded is refused. A row that begins or ends with the model's own padding, of a list as
    /// well, is rejected by the server with `PADDED`.
    ///
    /// Options, which hold for all rollouts of the call:
    ///
    /// - `weights`: a dict from attribute to weight. None at all: the model's default weighting.
    /// - `weighting`: one of the card's weightings, by its name.
    /// - `aggregation`: everything else about how attributes become one reward, as in a rollout file.
    /// - `tools`, `documents`: lists of dicts that the chat template is given; `chat_template_kwargs`: a dict of further
    ///   variables for it, such as `enable_thinking`; `chat_template`: which of the model's templates, by its name;
    ///   `reference`: an answer that completions are compared with, of models that do so: a str or a list of messages. Each
    ///   holds for all rollouts, or is a list with one for each.
    /// - `id`: a name for each rollout, for `Batch.by_id` and for the server's log: n str, or one str where n is 1; whole
    ///   numbers stand for their digits, in `group` and `groups` too.
    /// - `group`, or `groups` with one for each: rollouts of one group share a prompt, which is computed once. Never changes
    ///   a reward.
    /// - `finish_reasons`: for each why its completion ended, in the words of the engine that made it (`"stop"`, `"length"`,
    ///   `"tool_calls"`, `{"type": "length"}`, ...), or None; or `finish_reason`, one for all.
    /// - `answer_only`: True takes the thinking out of each completion before it is scored, by the marks of the model's chat
    ///   template (or `<think>` and `</think>`), or two marks; `batch.thinking` says what went. False: it stays. None: as the
    ///   model's preset has it, which for most is that it stays.
    /// - `require_completion`: a rollout whose completion has no token fails with `EMPTY_COMPLETION`.
    /// - `version`: which model version is to answer. None: that of the first rewards of the call; what another one scored,
    ///   since it took over meanwhile, fails with `OTHER_VERSION`. `"any"`: whichever.
    /// - `tokenizer`: whose token ids they are, a tokenizer of transformers or its `fingerprint`. Another one than the model's
    ///   is refused (`OTHER_TOKENIZER`) before anything is sent.
    /// - `deadline_ms`: milliseconds from now after which a rollout is not scored any more. Such a one fails with
    ///   `DEADLINE_EXCEEDED`, whatever the server does.
    /// - `timeout`: seconds after which the call returns in any case; what has no answer by then fails with
    ///   `DEADLINE_EXCEEDED`, and the server is told not to score it. Connecting counts.
    /// - `priority`: higher goes first. `traceparent`: W3C trace context.
    /// - `progress`: True shows tqdm's bar; a class like tqdm's makes one of `total=` and `unit=`; a bar that is there already
    ///   is told by `update(n)`.
    ///
    /// Returns a `Batch`. Raises a `RewardSidecarError` (`Rejected`, `DeadlineExceeded`, `ConnectionFailed`) for the first
    /// rollout that failed, with the whole `batch`; with `raise_on_error=False` rollouts that fail are NaN, and listed in
    /// `Batch.errors`. A row that is no rollout (None, a lone surrogate, a wrong type) fails alone, with `MALFORMED`. Raises
    /// `TypeError` or `ValueError` for arguments that cannot be meant, before anything is sent.
    ///
    /// ```python
    /// batch = client.score(prompts=["How do I make tea?"], completions=["Pour boiling water over the leaves."], timeout=10.0)
    /// batch.rewards                     # float32 [1]
    /// ```
    #[pyo3(signature = (*positional, **arguments), text_signature = "($self, /, *, prompts=None, completions=None, messages=None, \
        texts=None, input_ids=None, prompt_ids=None, completion_ids=None, attention_mask=None, lengths=None, prompt_mask=None, \
        prompt_lengths=None, completion_mask=None, completion_lengths=None, id=None, weights=None, weighting=None, \
        aggregation=None, group=None, groups=None, finish_reason=None, finish_reasons=None, require_completion=False, \
        answer_only=None, tools=None, documents=None, chat_template_kwargs=None, chat_template=None, reference=None, \
        version=None, tokenizer=None, deadline_ms=None, priority=None, traceparent=None, raise_on_error=True, timeout=None, \
        progress=None)")]
    fn score<'py>(
        &self,
        py: Python<'py>,
        positional: &Bound<'py, PyTuple>,
        arguments: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, Batch>> {
        let _owners = DropOwners::at_end(py);
        if !positional.is_empty() {
            let message = "score takes its arguments by their names: score(prompts=[...], completions=[...])";
            return Err(PyTypeError::new_err(message));
        }
        let Request { rows, raise_on_error, limit, tokenizer, progress } = Request::of(arguments, self.version())?;
        let client = self.connection(py)?;
        let guard = self.guard(py);
        if rows.form.has_ids()
            && let Some(tokenizer) = self.tokenizer(tokenizer, py)
        {
            tokenizer::check(py, &client, &tokenizer, limit, &guard)?;
        }
        let asked = Arc::clone(&rows);
        let progress = Progress::of(progress.as_ref(), rows.form.len())?;
        let answered = progress.as_ref().map(|progress| &progress.answered);
        let terms = Terms { pin: &rows.options.version, limit, guard: &guard, refused: &rows.refused, answered };
        let gathered = wait(py, &guard, |check| {
            gather(&client, asked, &terms, &mut || check() && progress.as_ref().is_none_or(Progress::refresh))
        });
        progress.map_or(Ok(()), |progress| progress.end(py))?;
        let gathered = gathered?;
        let batch = Bound::new(py, Batch::new(py, gathered, &rows.ids)?)?;
        match Batch::failure(&batch)?.filter(|_| raise_on_error) {
            Some(exception) => Err(PyErr::from_value(exception)),
            None => Ok(batch),
        }
    }

    /// Scores rollouts as they come, and gives their results as they finish.
    ///
    /// `rollouts`: an iterable of dicts in the form of a line of a rollout file, such as `{"id": "a1", "prompt": "Hello",
    /// "completion": "Hello."}` or `{"input_ids": [1, 2, 3]}`. It may be a generator, and endless: the next one is asked for
    /// while a result is waited for and there is room in flight. `group` and the options are those of `score`, for rollouts
    /// that say nothing else; one with weights of its own has nothing of the aggregation here.
    ///
    /// Returns an iterator over `Result`. A rollout that is malformed or rejected has a result with an `error`. Raises
    /// `ConnectionFailed` when the server is lost, and `DeadlineExceeded` when no result has come for `timeout` seconds; after
    /// that the iterator may be asked again.
    ///
    /// ```python
    /// for result in client.stream({"input_ids": ids} for ids in rows):
    ///     print(result.index, result.reward)
    /// ```
    #[pyo3(signature = (rollouts, group=None, *, tokenizer=None, timeout=None, **options), text_signature = "($self, /, rollouts, \
        group=None, *, weights=None, weighting=None, aggregation=None, require_completion=False, \
        answer_only=None, version=None, tokenizer=None, deadline_ms=None, priority=None, traceparent=None, timeout=None)")]
    fn stream<'py>(
        &self,
        py: Python<'py>,
        rollouts: &Bound<'py, PyAny>,
        group: Option<&Bound<'py, PyAny>>,
        tokenizer: Option<&Bound<'py, PyAny>>,
        timeout: Option<&Bound<'py, PyAny>>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Stream> {
        let (options, limit) = (Options::of(options, group, self.version())?, Limit::of(timeout)?);
        let (client, source) = (self.connection(py)?, rollouts.try_iter()?);
        let tokenizer = self.tokenizer(tokenizer.cloned(), py).map(Bound::unbind);
        Ok(Stream::new(client, source, options, limit, self.guard(py), tokenizer))
    }

    /// Ends the connection. Calls that wait in other threads still get their answers; later ones raise `ConnectionFailed`.
    ///
    /// A `with` block does it too: `with Client(address) as client: ...`
    fn close(&self, py: Python<'_>) {
        let connection = std::mem::replace(&mut *self.lock(), Connection::Closed);
        py.detach(|| drop(connection));
    }

    fn __enter__(this: Bound<'_, Self>) -> Bound<'_, Self> {
        this
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(this: &Bound<'_, Self>, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        // The subclass has more to close.
        this.call_method0("close").map(drop)
    }

    fn __repr__(this: &Bound<'_, Self>) -> PyResult<String> {
        Ok(format!("{}({:?})", this.get_type().name()?, this.get().settings.address))
    }
}

/// A card, field by field.
pub fn card_of<'py>(py: Python<'py>, served: &ServedModel) -> PyResult<Bound<'py, PyDict>> {
    let (model, card) = (&served.model, PyDict::new(py));
    card.set_item("name", &model.name)?;
    card.set_item("model_version", &*model.model_version)?;
    card.set_item("architecture", &model.architecture)?;
    card.set_item("attributes", PyTuple::new(py, &model.attributes)?)?;
    card.set_item("weightings", &model.weightings)?;
    card.set_item("default_weighting", &model.default_weighting)?;
    card.set_item("context_tokens", model.context_tokens)?;
    card.set_item("vocabulary_size", model.vocabulary_size)?;
    card.set_item("chat_template", &model.text.chat_template)?;
    card.set_item("chat_templates", &model.text.named_templates)?;
    card.set_item("in_flight_limit", served.in_flight_limit)?;
    card.set_item("over_long", &served.over_long)?;
    card.set_item("aggregations", PyTuple::new(py, &served.aggregations)?)?;
    card.set_item("tokenizer", tokenizer::of_card(py, model.text.vocabulary.as_deref())?)?;
    Ok(card)
}
