//! Llama: pre-norm blocks of grouped-query attention with rotary positions and a gated feed-forward layer.
//!
//! Reference: `models/llama/modeling_llama.py` of transformers, and its defaults for what a configuration leaves out.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::model::ModelError;
use crate::model::backbone::{Architecture, Backbone, DeviceBatch, RankContext, Shape};
use crate::model::checkpoint::WeightSource;
use crate::model::kernels::HeadLayout;
use crate::model::layers::{Activation, Attention, Embedding, FeedForward, FeedForwardNames, Linear, RmsNorm, Rotary};
use crate::model::settings::Settings;

/// The Llama family.
pub struct Llama;

impl Architecture for Llama {
    fn names(&self) -> &'static [&'static str] {
        &["LlamaForSequenceClassification", "LlamaForCausalLM"]
    }

    fn load(&self, context: &RankContext) -> std::result::Result<Box<dyn Backbone>, ModelError> {
        Ok(Box::new(Model::load(context)?))
    }
}

/// What the configuration says.
struct LlamaConfig {
    layers: usize,
    hidden: usize,
    heads: HeadLayout,
    feed_forward: usize,
    vocabulary: usize,
    context: usize,
    eps: f64,
    activation: Activation,
    rotary: Rotary,
}

impl LlamaConfig {
    fn read(settings: &Settings) -> std::result::Result<Self, ModelError> {
        // What would change the numbers and is not implemented.
        for bias in ["attention_bias", "mlp_bias"] {
            if settings.flag(bias)?.unwrap_or(false) {
                return Err(settings.unsupported(bias, "false"));
            }
        }
        if settings.flag("is_causal")? == Some(false) {
            return Err(settings.unsupported("is_causal", "true"));
        }
        if settings.size("pretraining_tp")?.is_some_and(|ranks| ranks != 1) {
            return Err(settings.unsupported("pretraining_tp", "1"));
        }
        if settings.get("quantization_config").is_some() {
            return Err(settings.unsupported("quantization_config", "weights in F32, F16 or BF16"));
        }
        let malformed = |reason: String| ModelError::malformed(settings.path(), reason);
        let hidden = settings.required_size("hidden_size")?;
        let heads = settings.required_size("num_attention_heads")?;
        let kv_heads = settings.size("num_key_value_heads")?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(malformed(format!("{heads} query heads cannot share {kv_heads} key-value heads evenly")));
        }
        let head_dim = settings.size("head_dim")?.unwrap_or(hidden / heads);
        if head_dim == 0 {
            return Err(malformed(format!("hidden_size {hidden} leaves nothing for each of {heads} heads")));
        }
        let heads = HeadLayout { heads, kv_heads, head_dim };
        let context = settings.size("max_position_embeddings")?.unwrap_or(2048);
        Ok(Self {
            layers: settings.required_size("num_hidden_layers")?,
            hidden,
            heads,
            feed_forward: settings.required_size("intermediate_size")?,
            vocabulary: settings.required_size("vocab_size")?,
            context,
            eps: settings.number("rms_norm_eps")?.unwrap_or(1e-6),
            activation: Activation::read(settings, "hidden_act", Activation::Silu)?,
            rotary: Rotary::read(settings, heads, context)?,
        })
    }
}

struct Model {
    shape: Shape,
    embedding: Embedding,
    rotary: Rotary,
    attention: Attention,
    layers: Vec<Layer>,
    norm: RmsNorm,
}

impl Model {
    fn load(context: &RankContext) -> std::result::Result<Self, ModelError> {
        let config = LlamaConfig::read(context.settings)?;
        let weights = context.weights;
        refuse_ignored(weights, config.layers, context.settings)?;
        let (embedding, layers) = rayon::join(
            || {
                let name = "model.embed_tokens.weight";
                Embedding::load(weights, name, config.vocabulary, config.hidden, &context.device)
            },
            || {
                (0..config.layers)
                    .into_par_iter()
                    .map(|i| Layer::load(weights, &config, i))
                    .collect::<std::result::Result<Vec<_>, _>>()
            },
        );
        let (embedding, layers) = (embedding?, layers?);
        let norm = RmsNorm::load(weights, "model.norm.weight", config.hidden, config.eps)?;
        let HeadLayout { heads, kv_heads, head_dim } = config.heads;
        let per_layer = config.hidden * ((2 * heads + 2 * kv_heads) * head_dim + 3 * config.feed_forward + 2);
        let shape = Shape {
            layers: config.layers,
            hidden: config.hidden,
            heads,
            kv_heads,
            head_dim,
            feed_forward: config.feed_forward,
            vocabulary: config.vocabulary,
            context: config.context,
            parameters: config.vocabulary * config.hidden + config.layers * per_layer + config.hidden,
            bytes: embedding.bytes() + layers.iter().map(Layer::bytes).sum::<usize>() + norm.bytes(),
        };
        let attention = Attention::causal(config.heads);
        Ok(Self { shape, embedding, rotary: config.rotary, attention, layers, norm })
    }
}

impl Backbone for Model {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn forward(&self, batch: &DeviceBatch) -> Result<Tensor> {
        let tables = self.rotary.tables(&batch.micro_batch.positions, batch.tokens.device())?;
        let plan = self.attention.plan(batch.micro_batch);
        let mut x = self.embedding.forward(&batch.tokens)?;
        for layer in &self.layers {
            let qkv = layer.qkv.forward(&layer.attention_norm.forward(&x)?)?;
            self.rotary.apply(&qkv, &tables)?;
            x = layer.output.forward_add(&self.attention.forward(&qkv, &plan)?, &x)?;
            x = layer.feed_forward.forward_add(&layer.feed_forward_norm.forward(&x)?, &x)?;
        }
        self.norm.forward(&x.index_select(&batch.reads, 0)?)
    }
}

struct Layer {
    attention_norm: RmsNorm,
    qkv: Linear,
    output: Linear,
    feed_forward_norm: RmsNorm,
    feed_forward: FeedForward,
}

impl Layer {
    fn load(weights: &dyn WeightSource, config: &LlamaConfig, index: usize) -> std::result::Result<Self, ModelError> {
        let name = |part: &str| format!("model.layers.{index}.{part}.weight");
        let HeadLayout { heads, kv_heads, head_dim } = config.heads;
        let (hidden, feed_forward) = (config.hidden, config.feed_forward);
        let norm = |part: &str| RmsNorm::load(weights, &name(part), hidden, config.eps);
        let qkv = [
            (&*name("self_attn.q_proj"), heads * head_dim),
            (&*name("self_attn.k_proj"), kv_heads * head_dim),
            (&*name("self_attn.v_proj"), kv_heads * head_dim),
        ];
        let (gate, up, down) = (&*name("mlp.gate_proj"), &*name("mlp.up_proj"), &*name("mlp.down_proj"));
        let names = FeedForwardNames { gate, up, down };
        Ok(Self {
            attention_norm: norm("input_layernorm")?,
            qkv: Linear::load_fused(weights, &qkv, hidden)?,
            output: Linear::load(weights, &name("self_attn.o_proj"), hidden, heads * head_dim)?,
            feed_forward_norm: norm("post_attention_layernorm")?,
            feed_forward: FeedForward::load(weights, &names, hidden, feed_forward, config.activation)?,
        })
    }

    fn bytes(&self) -> usize {
        let norms = self.attention_norm.bytes() + self.feed_forward_norm.bytes();
        norms + self.qkv.bytes() + self.output.bytes() + self.feed_forward.bytes()
    }
}

/// Refuses a tensor in a layer that would be read by nobody, such as a bias that the configuration does not mention.
fn refuse_ignored(
    weights: &dyn WeightSource,
    layers: usize,
    settings: &Settings,
) -> std::result::Result<(), ModelError> {
    const KNOWN: [&str; 10] = [
        "input_layernorm.weight",
        "self_attn.q_proj.weight",
        "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",
        "self_attn.o_proj.weight",
        // Old checkpoints carry the frequencies, which the configuration determines.
        "self_attn.rotary_emb.inv_freq",
        "post_attention_layernorm.weight",
        "mlp.gate_proj.weight",
        "mlp.up_proj.weight",
        "mlp.down_proj.weight",
    ];
    for name in weights.names() {
        let Some((layer, part)) = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) else {
            continue;
        };
        // Layers beyond those that the configuration keeps are no part of the model.
        if layer.parse().is_ok_and(|layer: usize| layer < layers) && !KNOWN.contains(&part) {
            return Err(ModelError::Unsupported {
                path: weights.origin(&name),
                field: format!("tensor {name:?}"),
                found: "present".into(),
                expected: format!("the tensors of {}", settings.architecture()?),
            });
        }
    }
    Ok(())
}
