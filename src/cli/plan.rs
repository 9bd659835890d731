//! `plan`: what it takes to score with a model, before a single weight is downloaded.

mod text;

use super::exit::Exit;
use super::failure::Failure;
use super::output;
use crate::config::{self, ConfigError, Flags, INSPECT};
use crate::model::plan::{Dtype, Gpu, PlanError, Request, plan};
use crate::telemetry::Telemetry;

/// Plan for a model from its configuration alone: weights, bytes per rank, operations, traffic, rates, what fits where.
///
/// Arithmetic, not measurement: rates are published peaks of the GPU times the utilisation that you state.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  reward-sidecar plan --model nemotron-4-340b-reward --gpus 16 --pp 2\n  \
                             reward-sidecar plan --model path/to/config.json --gpu l40s --dtype int8 --json")]
pub struct PlanCommand {
    /// A folder or config.json in Hugging Face layout, a manifest, a .gguf file, or a published model's name
    #[arg(long, value_name = "REF")]
    model: Option<String>,
    /// Kind of GPU; a wrong name lists them
    #[arg(long, value_name = "NAME", default_value = "h100", value_parser = Gpu::find)]
    gpu: &'static Gpu,
    /// How many GPUs [default: as many as one copy of the model takes]
    #[arg(long, value_name = "N", value_parser = count)]
    gpus: Option<usize>,
    /// Tensor-parallel ranks [default: the fewest that the model fits on]
    #[arg(long, value_name = "N", value_parser = count)]
    tp: Option<usize>,
    /// Pipeline stages of equally many layers: arithmetic only, they are not built
    #[arg(long, value_name = "N", default_value = "1", value_parser = count)]
    pp: usize,
    /// Type of the weights: f32, bf16, f16, fp8, int8 or int4
    #[arg(long, value_name = "TYPE", default_value_t = Dtype::Bf16)]
    dtype: Dtype,
    /// Share of the GPU's published peak rate that is reached
    #[arg(long, value_name = "SHARE", default_value = "0.4", value_parser = share)]
    utilisation: f64,
    /// Mean length of a rollout in tokens [default: 1024, or the model's context if that is shorter]
    #[arg(long, value_name = "N", value_parser = count)]
    tokens: Option<usize>,
    /// Tokens in a micro-batch, which activations are counted for [default: as configured for serve]
    #[arg(long, value_name = "N", value_parser = count)]
    max_batch_tokens: Option<usize>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Beyond any cluster or context: a larger number is a mistake.
const MOST: usize = 1 << 20;

fn count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=MOST).contains(count));
    count.ok_or_else(|| format!("expected a whole number from 1 to {MOST}"))
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| "expected a share above 0 and up to 1, such as 0.4".to_owned())
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Model(error) => error.into(),
            error => Self::usage("PLAN", error.to_string()),
        }
    }
}

impl PlanCommand {
    pub fn run(self) -> Result<Exit, Failure> {
        let loaded = config::load_here(&Flags::<INSPECT>::default())?;
        Telemetry::logs(&loaded)?;
        let settings = loaded.settings;
        let model = self.model.unwrap_or(settings.model);
        if model.is_empty() {
            return Err(ConfigError::NoModel.into());
        }
        let plan = plan(&Request {
            model,
            cache_dir: settings.cache_dir,
            gpu: self.gpu,
            gpus: self.gpus,
            tp: self.tp,
            pp: self.pp,
            dtype: self.dtype,
            utilisation: self.utilisation,
            tokens: self.tokens,
            max_batch_tokens: self.max_batch_tokens.unwrap_or(settings.max_batch_tokens),
        })?;
        let text = if self.json {
            let json = serde_json::to_string_pretty(&plan);
            json.map_err(|e| Failure::internal(format!("the plan is no JSON: {e}")))? + "\n"
        } else {
            text::of(&plan)
        };
        output::print(&text)?;
        Ok(Exit::DONE)
    }
}
