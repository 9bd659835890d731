//! `score`: a rollout file in, a rewards file out, in one process.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::exit::Exit;
use super::failure::Failure;
use super::output::{Output, is_standard};
use super::pipeline::{self, Job};
use super::progress::Progress;
use super::weights::Weights;
use crate::aggregate;
use crate::config::{self, Flags, Origin, SCORE};
use crate::engine::ModelCard;
use crate::model;
use crate::reward::Code;
use crate::rollout::AggregationSpec;
use crate::sidecar::{self, Sidecar};
use crate::telemetry::Telemetry;

/// Score a rollout file (JSON Lines) and write a rewards file, in the order of the input.
///
/// Exit code 0: every rollout was scored. 1: some were rejected; the rewards file says which and why, and the rest is
/// scored. A summary goes to stderr.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Score {
    /// Rollout file; - is standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    input: PathBuf,
    /// Rewards file; - is standard output. An earlier file stays whole until the new one is complete
    #[arg(long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// One of the model's weightings, for rollouts that bring neither weights nor weighting
    #[arg(long, value_name = "NAME")]
    weighting: Option<String>,
    /// Weights by attribute, such as helpfulness=0.3,verbosity=-0.7, for rollouts that bring none
    #[arg(long, value_name = "A=W,...", conflicts_with = "weighting")]
    weights: Option<Weights>,
    #[command(flatten)]
    flags: Flags<SCORE>,
}

/// More lines are on their way while a file is read, so micro-batches wait longer for company than behind a socket; the
/// end of the input ends the wait.
const PATIENCE_MS: u64 = 1000;

const EXAMPLES: &str = r#"A line of the rollout file, in one of four forms:
  {"id":"a1","prompt":"What is 2+2?","completion":"4."}         prompt: text, or [{"role":"user","content":"..."}]
  {"id":"a2","text":"already templated text"}
  {"id":"a3","input_ids":[1,2,3]}
  {"id":"a4","prompt_ids":[1,2],"completion_ids":[3,4],"finish_reason":"length"}
Optional: group, finish_reason (stop, length), weights, weighting, deadline_ms, priority, aggregation.
An assistant's message in a prompt may say "score":true: that turn is scored too, by the conversation up to it.

A line of the rewards file:
  {"id":"a1","reward":1.25,"attributes":{"helpfulness":1.25},"tokens":57,"truncated":false,"model_version":"..."}
  {"id":"a9","error":{"code":"TOO_LONG","message":"..."}}
Scored turns, and the steps of a process reward model, add "reads":[{"tokens":9,"reward":...,"attributes":{...}},...].
A rollout without an id comes back as {"id":null,"line":12,"error":...}.

Examples:
  reward-sidecar score --model demo --input rollouts.jsonl --output rewards.jsonl
  zcat rollouts.jsonl.gz | reward-sidecar score --model demo --weights helpfulness=1 | jq .reward"#;

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
        let (input, input_bytes) = open_input(&self.input)?;
        refuse_to_overwrite_the_input(&self.input, &self.output)?;

        let engine = model::load(&model)?;
        let card = engine.card().clone();
        let defaults = AggregationSpec {
            weights: self.weights.as_ref().map(|weights| weights.0.clone()).unwrap_or_default(),
            weighting: self.weighting.clone(),
            ..AggregationSpec::default()
        };
        if self.weights.is_some() || self.weighting.is_some() {
            check_weights(&defaults, &card)?;
        }
        // Only now: what cannot be replaced is written in place, and a mistake above must not cost anybody an earlier result.
        let output = Output::open(&self.output)?;
        let writer = output.writer()?;

        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|e| Failure::internal(format!("cannot start the runtime: {e}")))?;
        let config = sidecar::Config {
            grpc: None,
            uds: None,
            shm: None,
            max_wait_ms: patience_ms,
            known_answer_ms: 0,
            ..settings.sidecar()
        };
        let scored = runtime.block_on(async {
            let sidecar = Sidecar::start(config, engine).await?;
            let job = Job {
                input,
                output: writer,
                input_name: self.input.display().to_string(),
                output_name: self.output.display().to_string(),
                defaults,
                window: settings.queue_rollouts,
                // One more than there are threads: the next text is at hand when a thread is free.
                submissions: settings.tokenizer_threads + 1,
            };
            let scored = pipeline::run(&sidecar, job, Progress::start(input_bytes)).await;
            // Everything has been answered, or nobody reads the answers.
            let drained = sidecar.drain().await;
            let progress = scored?;
            drained?;
            Ok::<_, Failure>(progress)
        });
        // The reader may wait on a standard input that never ends.
        runtime.shutdown_background();
        let progress = scored?;
        output.finish()?;
        let code = if progress.all_scored() { Exit::DONE } else { Exit::SOME_REJECTED };
        // The summary is for people; where stderr is gone, none are there.
        let _ = writeln!(io::stderr(), "{}", progress.finish());
        Ok(code)
    }
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

/// The input, and its size where that is known.
fn open_input(path: &Path) -> Result<(Box<dyn BufRead + Send>, Option<u64>), Failure> {
    if is_standard(path) {
        return Ok((Box::new(BufReader::new(io::stdin())), None));
    }
    let fail = |e: io::Error| Failure::usage("INPUT", format!("cannot read {}: {e}", path.display()));
    let file = File::open(path).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    if metadata.is_dir() {
        return Err(fail(io::ErrorKind::IsADirectory.into()));
    }
    Ok((Box::new(BufReader::with_capacity(1 << 16, file)), metadata.is_file().then_some(metadata.len())))
}

fn refuse_to_overwrite_the_input(input: &Path, output: &Path) -> Result<(), Failure> {
    if is_standard(input) || is_standard(output) {
        return Ok(());
    }
    // An output that does not exist yet is no input.
    let (Ok(a), Ok(b)) = (input.metadata(), output.metadata()) else { return Ok(()) };
    if a.is_file() && (a.dev(), a.ino()) == (b.dev(), b.ino()) {
        let message = format!("{} is input and output at once; write to another file", output.display());
        return Err(Failure::usage("OUTPUT", message));
    }
    Ok(())
}
