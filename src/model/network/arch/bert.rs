//! BERT and those whose bodies are BERT's: RoBERTa, XLM-RoBERTa, ELECTRA. References: `models/bert/modeling_bert.py`,
//! `models/roberta/modeling_roberta.py`, `models/xlm_roberta/modeling_xlm_roberta.py` and `models/electra/modeling_electra.py` of
//! transformers.

use super::encoder::{Defaults, EncoderArchitecture, pooled, read, rows};
use crate::model::error::ModelError;
use crate::model::network::encoder::{EncoderNames, EncoderSpec, PositionTable};
use crate::model::network::head::HeadSpec;
use crate::model::settings::Settings;

/// BERT.
pub struct Bert;

/// RoBERTa: positions begin behind the padding token's, and the head has a layer of its own.
pub struct Roberta;

/// XLM-RoBERTa: RoBERTa in other words.
pub struct XlmRoberta;

/// ELECTRA's discriminator: BERT, with RoBERTa's head of another activation.
pub struct Electra;

/// Names of BERT's tensors.
pub(super) const NAMES: EncoderNames = EncoderNames {
    prefix: "bert",
    embedding: "embeddings.word_embeddings",
    embedding_norm: "embeddings.LayerNorm",
    layers: "encoder.layer",
    qkv: &["attention.self.query", "attention.self.key", "attention.self.value"],
    output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    feed_forward_norm: "output.LayerNorm",
    norm: None,
};

const DEFAULTS: Defaults = Defaults {
    context: 512,
    eps: ("layer_norm_eps", 1e-12),
    activation: "hidden_act",
    // Dropout, and heads that BERT's multilingual configurations name and no class makes.
    no_effect: &[
        "attention_probs_dropout_prob",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
        "summary_activation",
    ],
};

/// The body, with as many token types as the configuration says. `padding` is where positions begin behind it.
fn body(settings: &Settings, prefix: &'static str, padding: Option<u32>) -> Result<EncoderSpec, ModelError> {
    if settings.text("position_embedding_type")?.is_some_and(|kind| kind != "absolute") {
        return Err(settings.unsupported("position_embedding_type", "\"absolute\""));
    }
    let spec = read(settings, &DEFAULTS, EncoderNames { prefix, ..NAMES })?;
    let positions = PositionTable { rows: spec.context, padding };
    let before = padding.map_or(0, |padding| padding as usize + 1);
    let Some(context) = spec.context.checked_sub(before).filter(|context| *context > 0) else {
        return Err(
            settings.unsupported("max_position_embeddings", format!("more than {before}, where positions begin"))
        );
    };
    Ok(EncoderSpec { context, positions: Some(positions), types: rows(settings, "type_vocab_size", 2)?, ..spec })
}

impl EncoderArchitecture for Bert {
    fn name(&self) -> &'static str {
        "BertForSequenceClassification"
    }

    fn spec(&self, settings: &Settings) -> Result<EncoderSpec, ModelError> {
        body(settings, "bert", None)
    }

    fn head(&self, _: &Settings) -> Result<HeadSpec, ModelError> {
        Ok(pooled("bert.pooler.dense", "tanh", "classifier"))
    }
}

/// The id of the padding token, behind which RoBERTa's positions begin.
fn padding(settings: &Settings) -> Result<Option<u32>, ModelError> {
    const FIELD: &str = "pad_token_id";
    match settings.get(FIELD) {
        None => Ok(Some(1)),
        Some(id) => match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
            Some(id) => Ok(Some(id)),
            None => Err(settings.unsupported(FIELD, "the id of a token, behind which positions begin")),
        },
    }
}

impl EncoderArchitecture for Roberta {
    fn name(&self) -> &'static str {
        "RobertaForSequenceClassification"
    }

    fn spec(&self, settings: &Settings) -> Result<EncoderSpec, ModelError> {
        body(settings, "roberta", padding(settings)?)
    }

    fn head(&self, _: &Settings) -> Result<HeadSpec, ModelError> {
        Ok(pooled("classifier.dense", "tanh", "classifier.out_proj"))
    }
}

impl EncoderArchitecture for XlmRoberta {
    fn name(&self) -> &'static str {
        "XLMRobertaForSequenceClassification"
    }

    fn spec(&self, settings: &Settings) -> Result<EncoderSpec, ModelError> {
        Roberta.spec(settings)
    }

    fn head(&self, settings: &Settings) -> Result<HeadSpec, ModelError> {
        Roberta.head(settings)
    }
}

impl EncoderArchitecture for Electra {
    fn name(&self) -> &'static str {
        "ElectraForSequenceClassification"
    }

    fn spec(&self, settings: &Settings) -> Result<EncoderSpec, ModelError> {
        let spec = body(settings, "electra", None)?;
        if settings.size("embedding_size")?.unwrap_or(128) != spec.hidden {
            return Err(settings.unsupported("embedding_size", format!("{}, as hidden_size is", spec.hidden)));
        }
        Ok(spec)
    }

    fn head(&self, _: &Settings) -> Result<HeadSpec, ModelError> {
        Ok(pooled("classifier.dense", "gelu", "classifier.out_proj"))
    }
}
