//! Every hard ceiling, with its why. A configured limit may be lower than its ceiling here, never higher.

/// Longest rollout id in bytes: ids are echoed in every reply and kept while in flight.
pub const MAX_ID_BYTES: usize = 256;

/// Longest message of a rejection in bytes: it may quote what the caller sent.
pub const MAX_REJECTION_BYTES: usize = 2048;

/// Longest name (group, weighting, attribute) in bytes.
pub const MAX_NAME_BYTES: usize = 256;

/// Most attributes of a model: every read of every reply carries them all. Published reward models have up to twenty.
pub const MAX_ATTRIBUTES: usize = 4096;

/// Most messages in one conversation: a template is rendered for each, before any token is counted.
pub const MAX_MESSAGES: usize = 4096;

/// Most levels of lists and objects in the JSON of a message, its tools and what else a template is given: tools' schemas have
/// about ten, and whoever reads JSON recurses once per level.
pub const MAX_JSON_DEPTH: usize = 64;

/// Longest source of a chat template in bytes: the longest published ones have some tens of thousands.
pub const MAX_TEMPLATE_SOURCE_BYTES: usize = 1 << 20;

/// Most steps of a chat template's program in one rendering; copying 32 bytes, or searching 16, counts as one. The published
/// templates take a few hundred per message, so that [`MAX_MESSAGES`] fit several times; one that loops for ever ends within a
/// second of a core.
pub const MAX_TEMPLATE_STEPS: u64 = 10_000_000;

/// Most bytes that the values of one rendering of a chat template hold at a time: eight texts of the longest rollout. One that
/// doubles a text again and again ends there.
pub const MAX_TEMPLATE_BYTES: usize = 64 << 20;

/// Deepest evaluation of a chat template: statements, expressions and macros in one another. A tokenizer thread's stack (2 MiB)
/// holds four times as many.
pub const MAX_TEMPLATE_DEPTH: u32 = 400;

/// Most rendered text of one rollout's scored turns, each with all before it: a conversation of n turns has n squared of
/// it. Four times the longest rollout; the tokens are limited by [`MAX_ROLLOUT_TOKENS`].
pub const MAX_TURNS_BYTES: usize = 4 * MAX_TEXT_BYTES;

/// Longest text of one rollout in bytes. 1 Mi tokens of ordinary text fit; a larger one is a mistake, and would hold
/// a tokenizer thread for seconds.
pub const MAX_TEXT_BYTES: usize = 8 << 20;

/// Most token ids in one rollout, its scored turns included, each with all before it: row numbers of a micro-batch are
/// `u32`, and no published context is longer.
pub const MAX_ROLLOUT_TOKENS: usize = 1 << 20;

/// Most reads of one rollout: each comes back with all attributes, and a reply must stay below [`MAX_MESSAGE_BYTES`].
pub const MAX_READS: usize = 1 << 16;

/// Most unique tokens in one micro-batch: row numbers are `u32`, and activations are a few hundred kB per token for
/// the largest models.
pub const MAX_BATCH_TOKENS: usize = 1 << 20;

/// Most rollouts in one micro-batch.
pub const MAX_BATCH_ROLLOUTS: usize = 1 << 16;

/// Most rollouts waiting or in flight in the whole process: each holds its tokens.
pub const MAX_QUEUE_ROLLOUTS: usize = 1 << 20;

/// Most tokens waiting in the queue (four bytes each).
pub const MAX_QUEUE_TOKENS: usize = 1 << 28;

/// Most rollouts in flight on one stream.
pub const MAX_STREAM_IN_FLIGHT: usize = 1 << 16;

/// Most connections that are open at a time: each has a descriptor, and buffers of some hundred kilobytes while it is in use.
pub const MAX_CONNECTIONS: usize = 1 << 16;

/// Most bytes held for callers before the queue takes their rollouts (64 GiB): beyond most machines' memory.
pub const MAX_INTAKE_BYTES: usize = 1 << 36;

/// Most lanes: each has three descriptors, and its rings are memory once they have been used.
pub const MAX_LANES: usize = 4096;

/// Smallest rollout ring of a lane, in bytes: some rollouts of a few hundred tokens.
pub const MIN_LANE_RING_BYTES: usize = 64 << 10;

/// Largest rollout ring of a lane, in bytes: the longest rollout fits 64 times.
pub const MAX_LANE_RING_BYTES: usize = 256 << 20;

/// Longest time that a thread watches for rollouts before it sleeps, in microseconds (a second): longer is for ever.
pub const MAX_SPIN_US: u64 = 1_000_000;

/// Largest gRPC message in bytes, either way: one [`MAX_TEXT_BYTES`] rollout, or a large batch of small ones.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Longest deadline in milliseconds (a day): longer ones are a unit mistake.
pub const MAX_DEADLINE_MS: u64 = 24 * 60 * 60 * 1000;

/// Longest secret that is read from a file, in bytes: far above any token or password, so a longer one is a wrong path.
pub const MAX_SECRET_BYTES: usize = 64 << 10;

/// Most bytes for prefixes that are kept (a tebibyte): beyond any machine's memory, so a larger number is a mistake.
pub const MAX_PREFIX_CACHE_BYTES: usize = 1 << 40;

/// Most bytes for packed weights that are kept on a disk (a pebibyte): a larger number is a mistake.
pub const MAX_PACKED_CACHE_BYTES: usize = 1 << 50;

/// Most threads of one kind, and most ranks: beyond any machine, so a larger number is a mistake.
pub const MAX_THREADS: usize = 1024;
