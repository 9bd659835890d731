//! [`ModelEngine`]: a loaded model behind the [`Engine`] trait.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Device;
use rayon::ThreadPool;

use super::backbone::{Backbone, DeviceBatch, RankContext, Shape};
use super::blueprint::Blueprint;
use super::head::Head;
use super::manifest::ReadPosition;
use super::settings::default_labels;
use super::{Config, ModelError, PRECISION, arch};
use crate::batch::MicroBatch;
use crate::engine::{Engine, EngineError, ModelCard, ReadPolicy, ScoreTable};

/// A model, ready to score. The forward pass runs on threads of its own.
pub struct ModelEngine {
    card: Arc<ModelCard>,
    backbone: Box<dyn Backbone>,
    head: Head,
    pool: ThreadPool,
    read: ReadPosition,
    files: Vec<PathBuf>,
}

/// What is to be known of a loaded model, for people and programs.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// Name of the model.
    pub name: String,
    /// Identifies weights, precision and template.
    pub model_version: String,
    /// Architecture as the configuration calls it.
    pub architecture: String,
    /// Sizes of the backbone.
    pub shape: Shape,
    /// Shape of the head: attributes, hidden.
    pub head: [usize; 2],
    /// Names of the outputs, in order.
    pub attributes: Vec<String>,
    /// Named vectors of attribute weights.
    pub weightings: BTreeMap<String, BTreeMap<String, f64>>,
    /// The weighting that counts where a request names none.
    pub default_weighting: Option<String>,
    /// The token at which the head reads.
    pub read: ReadPosition,
    /// Whether text is taken, or token ids only.
    pub tokenizer: bool,
    /// Whether conversations are taken.
    pub chat_template: bool,
    /// Type of the arithmetic.
    pub precision: &'static str,
    /// Weights, head included.
    pub parameters: usize,
    /// Bytes of the weights in memory, for each rank.
    pub bytes_per_rank: Vec<usize>,
    /// Threads of the forward pass.
    pub threads: usize,
    /// Files that the model was read from.
    pub files: Vec<PathBuf>,
}

impl ModelEngine {
    /// Loads the model that the configuration names.
    pub fn load(config: &Config) -> Result<Self, ModelError> {
        let threads = match config.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("forward-{i}"))
            .build()
            .map_err(|e| ModelError::Threads { threads, reason: e.to_string() })?;
        let started = std::time::Instant::now();
        let blueprint = Blueprint::open(config)?;
        let (version, loaded) = pool.install(|| rayon::join(|| fingerprint(&blueprint), || load_weights(&blueprint)));
        let (backbone, head) = loaded?;
        let Blueprint { name, settings, text, weightings, default_weighting, read, files, .. } = blueprint;
        let attributes = blueprint.attributes.unwrap_or_else(|| default_labels(head.attributes()));
        let (weightings, default_weighting) = match &attributes[..] {
            // One output is the reward; of several nobody but the user knows what they are worth.
            [only] if weightings.is_empty() => {
                let name = "default".to_owned();
                (BTreeMap::from([(name.clone(), BTreeMap::from([(only.clone(), 1.0)]))]), Some(name))
            }
            _ => (weightings, default_weighting),
        };
        let shape = backbone.shape();
        let card = ModelCard {
            model_version: format!("{name}@{}-{PRECISION}", version?).into(),
            name,
            architecture: settings.architecture()?.to_owned(),
            attributes,
            weightings,
            default_weighting,
            context_tokens: shape.context as u32,
            vocabulary_size: shape.vocabulary as u32,
            text,
            reads: ReadPolicy::default(),
        };
        tracing::info!(
            model_version = %card.model_version, parameters = shape.parameters, threads,
            load_ms = started.elapsed().as_millis() as u64, "model loaded"
        );
        Ok(Self { card: Arc::new(card), backbone, head, pool, read, files })
    }

    /// What is to be known of the model.
    pub fn report(&self) -> Report {
        let shape = self.backbone.shape();
        let head = [self.head.attributes(), shape.hidden];
        Report {
            name: self.card.name.clone(),
            model_version: self.card.model_version.to_string(),
            architecture: self.card.architecture.clone(),
            shape: shape.clone(),
            head,
            attributes: self.card.attributes.clone(),
            weightings: self.card.weightings.clone(),
            default_weighting: self.card.default_weighting.clone(),
            read: self.read,
            tokenizer: self.card.text.tokenizer_json.is_some(),
            chat_template: self.card.text.chat_template.is_some(),
            precision: PRECISION,
            parameters: shape.parameters + head[0] * head[1],
            bytes_per_rank: vec![shape.bytes + self.head.bytes()],
            threads: self.pool.current_num_threads(),
            files: self.files.clone(),
        }
    }
}

/// The fingerprint needs the attributes' names, which may have to be counted in the head.
fn fingerprint(blueprint: &Blueprint) -> Result<String, ModelError> {
    blueprint.fingerprint(blueprint.attributes.as_deref().unwrap_or_default())
}

fn load_weights(blueprint: &Blueprint) -> Result<(Box<dyn Backbone>, Head), ModelError> {
    let architecture = arch::find(&blueprint.settings)?;
    let weights = blueprint.weights.as_ref();
    let context = RankContext { settings: &blueprint.settings, weights, device: Device::Cpu };
    let hidden = blueprint.settings.required_size("hidden_size")?;
    let names = blueprint.attributes.as_ref().map(Vec::len);
    // The head first: it is small, and what most often is missing.
    let head = Head::load(weights, names, hidden)?;
    Ok((architecture.load(&context)?, head))
}

impl Engine for ModelEngine {
    fn card(&self) -> &Arc<ModelCard> {
        &self.card
    }

    fn score(&mut self, batch: &MicroBatch) -> Result<ScoreTable, EngineError> {
        let Self { backbone, head, pool, .. } = self;
        let scores = pool.install(|| -> candle_core::Result<Vec<f32>> {
            let batch = DeviceBatch::new(batch, &Device::Cpu)?;
            head.forward(&backbone.forward(&batch)?)?.flatten_all()?.to_vec1()
        });
        // Rows that are not finite go through: whoever asked for them is told, and the others keep their scores.
        scores
            .map(|values| ScoreTable::new(self.head.attributes(), values))
            // What follows the first line is a backtrace, which is nothing for callers.
            .map_err(|e| EngineError::Forward(e.to_string().lines().next().unwrap_or_default().to_owned()))
    }
}
