//! `trait Engine`: micro-batch in, score table out. The one seam between the sidecar and any model.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::answer_only::AnswerOnly;
use crate::batch::MicroBatch;

/// Turns micro-batches into scores. Used by one thread at a time, not always the same; how many ranks stand behind it is its
/// own affair.
pub trait Engine: Send {
    /// What a caller needs to know of the model.
    fn card(&self) -> &Arc<ModelCard>;

    /// Scores every read of the batch. The row of a read must depend on the tokens from its root segment to its
    /// row alone, bit for bit.
    fn score(&mut self, batch: &MicroBatch) -> Result<ScoreTable, EngineError>;

    /// Forgets what it has kept of earlier micro-batches. Scores do not depend on that; times do.
    fn forget(&mut self) {}

    /// How many rows [`Self::score`] would compute of this batch now: those that it has not kept.
    fn rows(&self, batch: &MicroBatch) -> usize {
        batch.tokens.len()
    }

    /// What it keeps, for other threads to ask; `None` where it keeps nothing.
    fn prefixes(&self) -> Option<Arc<dyn Prefixes>> {
        None
    }
}

/// What an engine has kept of earlier micro-batches. A hint: by the time that a rollout is scored, it may be gone.
pub trait Prefixes: Send + Sync {
    /// How many of these tokens, from the first on, are kept.
    fn known(&self, tokens: &[u32]) -> usize;

    /// Another number whenever [`Self::known`] may say something else than before.
    fn version(&self) -> u64;
}

/// The model as its callers need to know it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelCard {
    /// Name of the model.
    pub name: String,
    /// Identifies weights, precision and template; the same version gives the same bits.
    pub model_version: Arc<str>,
    /// Architecture as the model's own configuration calls it.
    pub architecture: String,
    /// Names of the outputs, in order.
    pub attributes: Vec<String>,
    /// Named vectors of attribute weights.
    pub weightings: BTreeMap<String, BTreeMap<String, f64>>,
    /// The weighting that counts where a request names none.
    pub default_weighting: Option<String>,
    /// Longest rollout in tokens.
    pub context_tokens: u32,
    /// Token ids must be below this.
    pub vocabulary_size: u32,
    /// How text becomes tokens.
    pub text: TextAssets,
    /// Where the head reads a rollout.
    pub reads: ReadPolicy,
}

/// Where the head reads a rollout, and what the rollout's tokens must hold for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct ReadPolicy {
    /// The tokens that are read.
    pub at: ReadAt,
    /// Tokens that must stand right before the one of [`ReadAt::EveryToken`]: where they do not, it is no step's end. Empty: none.
    pub behind: Vec<u32>,
    /// Characters that are taken from the end of a text, or of a conversation's, before it becomes tokens. Empty: none.
    pub strip: String,
    /// A token that means nothing at the end of a rollout, such as padding: the last one before them is read.
    pub skip: Option<u32>,
    /// A token that a rollout ends before, wherever it stands first: what comes from there on is left out. One that is a rollout's
    /// first leaves out nothing.
    pub ends_before: Option<u32>,
    /// A token that is put behind every rollout that does not end with it; the head was trained to be read there.
    pub append: Option<u32>,
    /// A token that every rollout must end with, as the model's template ends: what stands before it there belongs to it,
    /// so that it cannot just be appended.
    pub ends_with: Option<u32>,
    /// Whether `append` and `ends_with` are for text and conversations alone: token ids are read at their last one, whatever
    /// it is, as trainers send them to reward models that share their tokenizer.
    pub text_only: bool,
    /// A run of tokens that every rollout must hold: the head looks for the last one. Empty: none.
    pub needs: Vec<u32>,
    /// Tokens each of which every rollout must hold once, in this order: the head reads at all of them together, and not at
    /// [`Self::at`]. Empty: none.
    pub anchors: Vec<u32>,
}

impl ReadPolicy {
    /// Where each of `anchors` stands in `ids`, if each is there once and they come in this order.
    pub fn anchored(anchors: &[u32], ids: &[u32]) -> Option<Vec<usize>> {
        let found: Vec<usize> = (0..ids.len()).filter(|at| anchors.contains(&ids[*at])).collect();
        found.iter().map(|at| &ids[*at]).eq(anchors).then_some(found)
    }
}

/// The tokens of a rollout at which the head reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadAt {
    /// The last one: one read per rollout.
    #[default]
    LastToken,
    /// Every such token, each the end of a step: as many reads as there are. The rollout's own attributes are made of its
    /// steps'.
    EveryToken {
        /// Its id.
        token: u32,
        /// How a rollout's attribute is made of its steps'.
        reduce: Reduce,
    },
}

/// How an attribute of a rollout is made of those of its steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reduce {
    /// All multiplied: the chance that every step is right.
    #[default]
    Product,
    /// The least.
    Min,
    /// The mean.
    Mean,
    /// The last step's.
    Last,
}

/// What it takes to make token ids out of a conversation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TextAssets {
    /// A tokenizer in Hugging Face's `tokenizer.json` format. `None`: the model takes token ids only.
    pub tokenizer_json: Option<Arc<[u8]>>,
    /// Chat template (Jinja). `None`: no chat input.
    pub chat_template: Option<String>,
    /// Further chat templates by their names, such as `tool_use`; none is called `default`.
    pub named_templates: BTreeMap<String, String>,
    /// The day that templates are told where they ask for today's, as `YYYY-MM-DD`. `None`: they cannot ask.
    pub template_date: Option<String>,
    /// Variables that the template may use: `bos_token`, `eos_token`, ...
    pub template_variables: BTreeMap<String, String>,
    /// Whether conversations and text are to begin with a beginning-of-sequence token.
    pub bos: Bos,
    /// Whether a completion's thinking is taken out where the rollout does not say.
    pub answer_only: Option<AnswerOnly>,
    /// How many texts a conversation becomes.
    pub texts: Texts,
    /// Which token each id stands for, as far as a caller is told. The sidecar fills it in where it loads the tokenizer.
    pub vocabulary: Option<Arc<Vocabulary>>,
}

/// How many texts a conversation becomes, each of which the tokenizer takes by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Texts {
    /// One: what the template writes of it.
    #[default]
    One,
    /// A question and its answer, which the tokenizer puts together: what the template writes of the prompt, and the completion as
    /// it is.
    Pair,
    /// A prompt and two answers to it, one behind the other.
    Comparison(Comparison),
}

/// Three texts, each behind an anchor: what the template writes of the prompt, the completion as it is, and the rollout's reference.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// The tokens before the prompt, the completion and the reference, as the tokenizer calls them.
    pub anchors: [String; 3],
    /// Most tokens of the prompt with its anchor and all that the tokenizer puts around it. The completion and the reference have half
    /// of what it leaves of the context, each.
    pub longest_prompt: u32,
}

/// When chat and text begin with a beginning-of-sequence token. One that the template or the text itself writes always stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bos {
    /// Chat: none is added to what the template writes, as `apply_chat_template(tokenize=True)` of transformers has it.
    /// Text: one where the tokenizer puts one and the text has none.
    #[default]
    AsTokenizer,
    /// Chat and text: one is added where there is none. It is the tokenizer's, or else the one that the model calls
    /// `bos_token`.
    One,
    /// None is added: the model was trained without.
    Never,
}

/// Which token each id of a tokenizer stands for, in short. The protocol's message `Tokenizer` defines each field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vocabulary {
    /// SHA-256 over all pairs of id and token, in lower-case hex.
    pub fingerprint: String,
    /// Number of pairs.
    pub size: u32,
    /// Eight bytes for each block of 256 ids.
    pub block_hashes: Vec<u8>,
    /// Some pairs of id and token, by which a difference can be named.
    pub samples: Vec<(u32, String)>,
}

/// Scores of a micro-batch: one row per read, one column per attribute.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreTable {
    columns: usize,
    values: Vec<f32>,
    reused: usize,
    recomputed: usize,
}

impl ScoreTable {
    /// A table of `values.len() / columns` rows, row after row.
    ///
    /// # Panics
    /// If `values` is not whole rows: an engine that does that is broken.
    pub fn new(columns: usize, values: Vec<f32>) -> Self {
        assert!(columns > 0 && values.len().is_multiple_of(columns), "score table of ragged rows");
        Self { columns, values, reused: 0, recomputed: 0 }
    }

    /// The same table, of an engine that had computed so many of the batch's tokens before.
    pub fn reusing(self, tokens: usize) -> Self {
        Self { reused: tokens, ..self }
    }

    /// Tokens of the batch that were not computed, since the engine had kept what it needs of them.
    pub fn reused(&self) -> usize {
        self.reused
    }

    /// The same table, of an engine that computed so many tokens again, since it had no room to keep them.
    pub fn recomputing(self, tokens: usize) -> Self {
        Self { recomputed: tokens, ..self }
    }

    /// Tokens of the batch that were computed again, since the engine had no room to keep them. An estimate.
    pub fn recomputed(&self) -> usize {
        self.recomputed
    }

    /// The scores of read `i`, in the order of the card's attributes.
    pub fn row(&self, i: usize) -> Option<&[f32]> {
        self.values.chunks_exact(self.columns).nth(i)
    }

    /// The scores of several reads in a row; `None` where there are not so many.
    pub fn slice(&self, reads: Range<usize>) -> Option<Vec<&[f32]>> {
        let values = self.values.get(reads.start * self.columns..reads.end * self.columns)?;
        Some(values.chunks_exact(self.columns).collect())
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.columns
    }
}

/// The engine's own failure; never the fault of one rollout.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The forward pass failed; the next may succeed.
    #[error("the forward pass failed: {0}")]
    Forward(String),
    /// The engine can score nothing any more; every later pass fails, too.
    #[error("the engine has failed for good: {0}")]
    Fatal(String),
}

/// An engine without a model: every attribute is a fixed function of the read's own tokens. For tests of everything
/// around a model, and for measuring transports.
#[derive(Debug)]
pub struct EchoEngine {
    card: Arc<ModelCard>,
}

impl EchoEngine {
    /// Two attributes: `length` (number of tokens) and `checksum` (a hash of the ids in [0, 1)). Every id is valid.
    pub fn new(context_tokens: u32) -> Self {
        let card = ModelCard {
            name: "echo".into(),
            model_version: "echo-2".into(),
            architecture: "Echo".into(),
            attributes: vec!["length".into(), "checksum".into()],
            weightings: BTreeMap::from([("default".into(), BTreeMap::from([("length".into(), 1.0)]))]),
            default_weighting: Some("default".into()),
            context_tokens,
            vocabulary_size: u32::MAX,
            text: TextAssets::default(),
            reads: ReadPolicy::default(),
        };
        Self { card: Arc::new(card) }
    }

    /// The same with another card's text and reads.
    pub fn taking(self, text: TextAssets, reads: ReadPolicy) -> Self {
        Self { card: Arc::new(ModelCard { text, reads, ..ModelCard::clone(&self.card) }) }
    }

    /// What the engine says of these tokens.
    pub fn expected(tokens: &[u32]) -> [f32; 2] {
        // FNV-1a over every fourth id, four times, then over those four: multiplications that need not wait for each other.
        let mut lanes = [0xcbf2_9ce4_8422_2325_u64; 4];
        let step = |hash: u64, value: u64| (hash ^ value).wrapping_mul(0x0100_0000_01b3);
        let (fours, rest) = tokens.as_chunks::<4>();
        for ids in fours {
            lanes = std::array::from_fn(|i| step(lanes[i], u64::from(ids[i])));
        }
        for (lane, &id) in lanes.iter_mut().zip(rest) {
            *lane = step(*lane, u64::from(id));
        }
        // 24 bits, so that the quotient is exact in float32.
        let hash = lanes.into_iter().reduce(step).unwrap_or_default();
        [tokens.len() as f32, (hash >> 40) as f32 / (1u32 << 24) as f32]
    }
}

impl Engine for EchoEngine {
    fn card(&self) -> &Arc<ModelCard> {
        &self.card
    }

    fn score(&mut self, batch: &MicroBatch) -> Result<ScoreTable, EngineError> {
        let mut values = Vec::with_capacity(batch.reads.len() * 2);
        for read in &batch.reads {
            values.extend(Self::expected(&batch.path(read.row)));
        }
        Ok(ScoreTable::new(2, values))
    }
}
