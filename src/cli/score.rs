//! `score`: a rollout file in, a rewards file out, in one process.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tokio::sync::watch;

use super::compression::{self, Decoder, Encoder};
use super::exit::Exit;
use super::failure::Failure;
use super::output::{self, Output, is_standard};
use super::parquet::{self, Destination};
use super::pipeline::{self, Job, Scored};
use super::progress::Progress;
use super::resume::{self, Kept};
use super::rewards_file::{self, RewardsFile};
use super::rollout_file::{self, Rows};
use super::runtime;
use super::signals::{Signals, Stop};
use super::weights::Weights;
use crate::aggregate;
use crate::config::{self, Flags, Origin, SCORE};
use crate::engine::ModelCard;
use crate::json::row;
use crate::model;
use crate::reward::Code;
use crate::rollout::AggregationSpec;
use crate::sidecar::{self, Sidecar};
use crate::telemetry::Telemetry;

/// Score a rollout file (JSON Lines or Parquet) and write a rewards file, in the order of the input.
///
/// Exit code 0: every rollout was scored. 1: some were rejected; the rewards file says which and why, and the rest is
/// scored. A summary goes to stderr.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Score {
    /// Rollout file, in Parquet where its name ends in .parquet, else JSON Lines; - is standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    input: PathBuf,
    /// Rewards file, in Parquet where its name ends in .parquet, else JSON Lines; - is standard output. An earlier file stays whole until the new one is complete
    #[arg(long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// One of the model's weightings, for rollouts that bring neither weights nor weighting
    #[arg(long, value_name = "NAME")]
    weighting: Option<String>,
    /// Weights by attribute, such as helpfulness=0.3,verbosity=-0.7, for rollouts that bring none
    #[arg(long, value_name = "A=W,...", conflicts_with = "weighting")]
    weights: Option<Weights>,
    /// What happens to fields and columns that are not a rollout's: refuse them (the row is rejected), keep them in the
    /// rewards file as they are, or ignore them
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = ExtraColumns::Refuse)]
    extra_columns: ExtraColumns,
    /// Write the summary to this file, too, as a JSON object
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
    /// Go on from what an interrupted run of the same command has left in OUTPUT.partial, if there is anything. Rewards in JSON Lines only, compressed or not
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    flags: Flags<SCORE>,
}

/// What happens to fields that are not a rollout's.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ExtraColumns {
    Refuse,
    Keep,
    Ignore,
}

impl From<ExtraColumns> for row::ExtraColumns {
    fn from(extra_columns: ExtraColumns) -> Self {
        match extra_columns {
            ExtraColumns::Refuse => Self::Refuse,
            ExtraColumns::Keep => Self::Keep,
            ExtraColumns::Ignore => Self::Ignore,
        }
    }
}

/// More lines are on their way while a file is read, so micro-batches wait longer for company than behind a socket; the
/// end of the input ends the wait.
const PATIENCE_MS: u64 = 1000;

const EXAMPLES: &str = r#"A line of the rollout file, in one of these forms:
  {"id":"a1","prompt":"What is 2+2?","completion":"4."}         prompt: text, or [{"role":"user","content":"..."}]
  {"messages":[{"role":"user","content":"..."},{"role":"assistant","content":"..."}]}    the last message is scored
  {"prompt":"...","completion":[{"role":"assistant","content":"..."}],"tools":[...]}     messages may hold any JSON
  {"id":"a2","text":"already templated text"}
  {"id":"a3","input_ids":[1,2,3]}
  {"id":"a4","prompt_ids":[1,2],"completion_ids":[3,4],"finish_reason":"length"}
  {"prompt":"...","chosen":"...","rejected":"..."}      a preference pair: text or messages, with or without a prompt
An id is text or a whole number, which comes back as text; a row without one has its number in the file, from 1.
Optional: group, finish_reason (stop, length, or another word of the engine that made it), require_completion, answer_only,
model_version (another one rejects it), weights, weighting, deadline_ms, priority, aggregation; beside a conversation also tools, documents,
reference (what the completion is compared with, for models that do so), chat_template_kwargs
(further variables of the template) and chat_template (its name, where the model has several).
An assistant's message in a prompt may say "score":true: that turn is scored too, by the conversation up to it.

A line of the rewards file:
  {"id":"a1","reward":1.25,"attributes":{"helpfulness":1.25},"tokens":57,"truncated":false,"model_version":"..."}
  {"id":"a9","error":{"code":"TOO_LONG","message":"..."}}
Scored turns, and the steps of a process reward model, add "reads":[{"tokens":9,"reward":...,"attributes":{...}},...].
A pair: {"id":"1","chosen":{"reward":...},"rejected":{"reward":...},"margin":...}; the accuracy goes to stderr.
A line that could not be read comes back as {"id":null,"line":12,"error":...}.
In a Parquet file the same fields are columns; those of an object have its name in front: attributes.helpfulness, error.code.

Examples:
  reward-sidecar score --model demo --input rollouts.jsonl --output rewards.jsonl
  reward-sidecar score --model demo --input pairs.parquet --output rewards.parquet --extra-columns keep --summary s.json
  reward-sidecar score --model demo --input rollouts.jsonl --output rewards.jsonl --resume     as often as it takes
  reward-sidecar score --model demo --input rollouts.jsonl.gz --weights helpfulness=1 | jq .reward"#;

impl Score {
    pub fn run(self) -> Result<Exit, Failure> {
        let loaded = config::load_here(&self.flags)?;
        let patience_ms = match loaded.origin("max_wait_ms") {
            Some(Origin::Default) | None => PATIENCE_MS,
            Some(_) => loaded.settings.max_wait_ms,
        };
        let model = loaded.settings.model()?;
        Telemetry::logs(&loaded)?;
        let settings = loaded.settings;
        let extra_columns = row::ExtraColumns::from(self.extra_columns);
        let Input { rows, bytes: input_bytes, layout } = self.open_input(extra_columns)?;
        refuse_to_overwrite(&self.input, "input", &self.output)?;
        if let Some(summary) = &self.summary {
            refuse_to_overwrite(&self.input, "input", summary)?;
            refuse_to_overwrite(&self.output, "rewards file", summary)?;
        }

        self.check_resume()?;
        output::check(&self.output)?;
        self.summary.as_deref().map_or(Ok(()), output::check)?;

        let engine = model::load(&model)?;
        let card = engine.card().clone();
        let defaults = AggregationSpec {
            weights: self.weights.as_ref().map(|weights| weights.0.clone()).unwrap_or_default(),
            weighting: self.weighting.clone(),
            ..AggregationSpec::default()
        };
        if self.weights.is_some() || self.weighting.is_some() {
            check_weights(&defaults, &card)?;
        } else if card.default_weighting.is_none() {
            warn_of_no_weighting(&card);
        }
        // Only now: what cannot be replaced is written in place, and a mistake above must not cost anybody an earlier result.
        let (output, kept) = self.open_output(&card)?;
        let kept_rows = kept.as_ref().map_or((0, 0), |kept| (kept.count, kept.rejected));
        let summary_output = self.summary.as_deref().map(Output::open).transpose()?;
        let file: Box<dyn RewardsFile> = if is_parquet(&self.output) {
            Box::new(parquet::Writer::new(output.writer()?, layout))
        } else {
            let fail = |error: io::Error| Failure::output(&self.output.display().to_string(), &error);
            let writer = output.writer()?;
            // Of a run that may be resumed the output compresses the text when it is complete.
            let encoder =
                if self.resume { Encoder::Plain(writer) } else { Encoder::new(&self.output, writer).map_err(fail)? };
            Box::new(rewards_file::JsonLines::new(encoder))
        };

        let runtime = runtime::start()?;
        let config = sidecar::Config { max_wait_ms: patience_ms, ..settings.sidecar_unheard() };
        let (interrupt, interrupted) = watch::channel(false);
        let score_all = async {
            let sidecar = Sidecar::start(config, engine).await?;
            let job = Job {
                input: rows,
                output: file,
                extra_columns,
                input_name: self.input.display().to_string(),
                output_name: self.output.display().to_string(),
                defaults,
                window: settings.queue_rollouts,
                // One more than there are threads: the next text is at hand when a thread is free.
                submissions: settings.tokenizer_threads + 1,
                kept,
                interrupted,
            };
            let scored = pipeline::run(&sidecar, job, Progress::start(input_bytes, kept_rows)).await;
            // Everything has been answered, or nobody reads the answers.
            let drained = sidecar.drain().await;
            let scored = scored?;
            // Whoever interrupted the run is told that, not how the sidecar ended.
            if scored.complete {
                drained?;
            }
            Ok::<_, Failure>(scored)
        };
        let ended = runtime.block_on(until_interrupted(score_all, interrupt));
        // The reader may wait on a standard input that never ends.
        runtime.shutdown_background();
        let (scored, signal) = ended?;
        if let Some(signal) = signal.filter(|_| !scored.complete) {
            let _ = writeln!(io::stderr(), "{}", scored.progress.finish().lines());
            let resumable =
                !is_parquet(&self.output) && (self.resume || !compression::is_named_compressed(&self.output));
            return Err(Failure::interrupted(signal, &output.leave(resumable)));
        }
        let progress = scored.progress;
        output.finish()?;
        let code = if progress.all_scored() { Exit::DONE } else { Exit::SOME_REJECTED };
        let summary = progress.finish();
        if let Some(output) = summary_output {
            let written = || {
                let mut writer = output.writer()?;
                serde_json::to_writer_pretty(&mut writer, &summary)
                    .map_err(io::Error::from)
                    .and_then(|()| writeln!(writer))
                    .and_then(|()| writer.flush())
                    .map_err(|error| Failure::output("the summary", &error))
            };
            written()?;
            output.finish()?;
        }
        // These lines are for people; where stderr is gone, none are there.
        let _ = writeln!(io::stderr(), "{}", summary.lines());
        Ok(code)
    }

    fn check_resume(&self) -> Result<(), Failure> {
        let why = if !self.resume {
            return Ok(());
        } else if is_standard(&self.output) || is_standard(&self.input) {
            "it needs --input FILE and --output FILE"
        } else if is_parquet(&self.output) {
            "a Parquet file cannot be gone on with: write JSON Lines, whose name does not end in .parquet"
        } else {
            return Ok(());
        };
        Err(Failure::usage("OUTPUT", format!("--resume: {why}")))
    }

    /// The output, and what an earlier run has written to it.
    fn open_output(&self, card: &ModelCard) -> Result<(Output, Option<Kept>), Failure> {
        if !self.resume {
            return Ok((Output::open(&self.output)?, None));
        }
        let (output, kept) = Output::resume(&self.output)?;
        match &kept.model_version {
            Some(version) if **version != *card.model_version => {
                let place = resume::path_for(&self.output);
                let message = format!(
                    "{} was scored by {version}, and this model is {}; remove it to begin anew",
                    place.display(),
                    card.model_version
                );
                Err(Failure::usage("OUTPUT", message))
            }
            _ => Ok((output, Some(kept))),
        }
    }

    /// The input. What is wrong with a table's columns is said here.
    fn open_input(&self, extra_columns: row::ExtraColumns) -> Result<Input, Failure> {
        let lines = |rows, bytes| Input { rows, bytes, layout: None };
        let path = &self.input;
        if is_standard(path) {
            if io::stdin().is_terminal() {
                tracing::info!(
                    "reading rollouts from the terminal, a line each, until Ctrl-D; --input FILE reads a file"
                );
            }
            let input = Decoder::new(io::stdin());
            return Ok(lines(Box::new(rollout_file::JsonLines::new(input)), None));
        }
        let fail = |e: io::Error| Failure::usage("INPUT", format!("cannot read {}: {e}", path.display()));
        let mut file = File::open(path).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        if metadata.is_dir() {
            return Err(fail(io::ErrorKind::IsADirectory.into()));
        }
        let bytes = metadata.is_file().then_some(metadata.len());
        if is_parquet(path) {
            let destination = if is_parquet(&self.output) { Destination::Parquet } else { Destination::JsonLines };
            let reader = parquet::Reader::open(file, extra_columns, destination)
                .map_err(|why| Failure::usage("INPUT", format!("{}: {why}", path.display())))?;
            let layout = Some(reader.layout());
            return Ok(Input { rows: Box::new(reader), bytes, layout });
        }
        // Of a compressed file nobody knows how much text it holds.
        let compressed = bytes.is_some() && compression::is_compressed(&mut file).map_err(fail)?;
        let input = Decoder::new(file);
        let bytes = bytes.filter(|_| !compressed);
        Ok(lines(Box::new(rollout_file::JsonLines::new(input)), bytes))
    }
}

/// What is to be read.
struct Input {
    rows: Box<dyn Rows>,
    /// Its size, where that is known.
    bytes: Option<u64>,
    /// What its rows are, where that is known before they are read.
    layout: Option<parquet::Layout>,
}

fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "parquet")
}

/// What is wrong with `--weights` or `--weighting` is said before anything is scored.
fn check_weights(defaults: &AggregationSpec, card: &ModelCard) -> Result<(), Failure> {
    aggregate::bind(defaults, card, false).map(drop).map_err(|rejection| {
        let attributes = match rejection.code {
            // These list them already.
            Code::UnknownAttribute | Code::UnknownWeighting => String::new(),
            _ => format!("; the attributes are: {}", card.attributes.join(", ")),
        };
        Failure::usage(rejection.code.name(), format!("--{}{attributes}", rejection.message))
    })
}

/// Runs `score_all` until it is done. A signal, which is returned too, ends it in good order, by `interrupt`, and a second one
/// at once.
async fn until_interrupted(
    score_all: impl Future<Output = Result<Scored, Failure>>,
    interrupt: watch::Sender<bool>,
) -> Result<(Scored, Option<Stop>), Failure> {
    let mut signals = Signals::new().map_err(|e| Failure::internal(format!("cannot wait for signals: {e}")))?;
    let mut score_all = std::pin::pin!(score_all);
    let first = tokio::select! {
        scored = &mut score_all => return Ok((scored?, None)),
        signal = signals.next() => signal,
    };
    interrupt.send_replace(true);
    tracing::info!("{first}: ending; a second signal ends at once");
    tokio::select! {
        scored = &mut score_all => Ok((scored?, Some(first))),
        second = signals.next() => Err(Failure::Signal(second.number())),
    }
}

/// Said once, before every row is rejected for it.
fn warn_of_no_weighting(card: &ModelCard) {
    let example = card.attributes.first().map(String::as_str).unwrap_or_default();
    tracing::warn!(
        "the model has {} attributes and names no default weighting, so a row without weights is NO_WEIGHTING: add \
         --weights {example}=1, or name a default_weighting in a reward-model.toml; the attributes are: {}",
        card.attributes.len(),
        card.attributes.join(", ")
    );
}

fn refuse_to_overwrite(input: &Path, what: &str, output: &Path) -> Result<(), Failure> {
    let same = if is_standard(input) || is_standard(output) {
        // One stream is not both the rewards and the summary; standard input and output are two.
        what != "input" && input == output
    } else {
        match (input.metadata(), output.metadata()) {
            (Ok(a), Ok(b)) => a.is_file() && (a.dev(), a.ino()) == (b.dev(), b.ino()),
            // What does not exist yet can be the same by its name alone.
            _ => input == output && !input.exists(),
        }
    };
    if same {
        let message = format!("{} is {what} and output at once; write to another file", output.display());
        return Err(Failure::usage("OUTPUT", message));
    }
    Ok(())
}
