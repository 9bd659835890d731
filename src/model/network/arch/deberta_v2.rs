//! DeBERTa v2 and v3: BERT whose attention looks at the distance of two tokens. Reference:
//! `models/deberta_v2/modeling_deberta_v2.py` of transformers.

use super::bert::NAMES;
use super::common::flag;
use super::encoder::{Defaults, EncoderArchitecture, pooled, read, rows};
use crate::model::compute::kernels::RelativeShape;
use crate::model::error::ModelError;
use crate::model::network::encoder::{EncoderNames, EncoderSpec, PositionTable, RelativeSpec};
use crate::model::network::head::HeadSpec;
use crate::model::settings::Settings;

/// DeBERTa v2 and v3.
pub struct DebertaV2;

const DEFAULTS: Defaults = Defaults {
    context: 512,
    eps: ("layer_norm_eps", 1e-7),
    activation: "hidden_act",
    no_effect: &["attention_probs_dropout_prob", "pooler_dropout", "legacy"],
};

/// Far more buckets than a model has, so that no table of them exceeds memory.
const MOST_BUCKETS: usize = 1 << 16;

impl EncoderArchitecture for DebertaV2 {
    fn name(&self) -> &'static str {
        "DebertaV2ForSequenceClassification"
    }

    fn spec(&self, settings: &Settings) -> Result<EncoderSpec, ModelError> {
        let names = EncoderNames {
            prefix: "deberta",
            qkv: &["attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"],
            ..NAMES
        };
        let spec = read(settings, &DEFAULTS, names)?;
        let same = |field: &str, expected: usize| match rows(settings, field, expected)? {
            Some(found) if found == expected => Ok(()),
            _ => Err(settings.unsupported(field, expected.to_string())),
        };
        same("embedding_size", spec.hidden)?;
        same("attention_head_size", spec.heads.head_dim)?;
        same("pooler_hidden_size", spec.hidden)?;
        if rows(settings, "conv_kernel_size", 0)?.is_some() {
            return Err(
                settings.unsupported("conv_kernel_size", "0: a convolution behind the first layer is not known")
            );
        }
        let has_positions = settings.flag("position_biased_input")?.unwrap_or(true);
        let relative = relative(settings, spec.context)?;
        // Each kind of term is one more that the scores are the sum of.
        let terms = 1 + terms(settings)?.len();
        Ok(EncoderSpec {
            attention_scale: (1.0 / (spec.heads.head_dim as f64 * terms as f64).sqrt()) as f32,
            positions: has_positions.then_some(PositionTable { rows: spec.context, padding: None }),
            types: rows(settings, "type_vocab_size", 0)?,
            relative,
            ..spec
        })
    }

    fn head(&self, settings: &Settings) -> Result<HeadSpec, ModelError> {
        let activation = settings.text("pooler_hidden_act")?.unwrap_or("gelu");
        Ok(pooled("pooler.dense", activation, "classifier"))
    }
}

/// What relative positions add, as the configuration names it: a list, or a text with bars between.
fn terms(settings: &Settings) -> Result<Vec<String>, ModelError> {
    const FIELD: &str = "pos_att_type";
    let unsupported = || settings.unsupported(FIELD, "some of \"c2p\" and \"p2c\"");
    let names: Vec<&str> = match settings.get(FIELD) {
        None => Vec::new(),
        Some(serde_json::Value::String(names)) => names.split('|').collect(),
        Some(serde_json::Value::Array(names)) => {
            names.iter().map(|name| name.as_str().ok_or_else(unsupported)).collect::<Result<_, _>>()?
        }
        Some(_) => return Err(unsupported()),
    };
    let mut found: Vec<String> = names.iter().map(|name| name.trim().to_ascii_lowercase()).collect();
    found.retain(|name| !name.is_empty());
    found.sort();
    found.dedup();
    if found.iter().any(|name| !["c2p", "p2c"].contains(&name.as_str())) {
        return Err(unsupported());
    }
    Ok(found)
}

/// The terms of relative positions; `None` where attention does not look at them.
fn relative(settings: &Settings, context: usize) -> Result<Option<RelativeSpec>, ModelError> {
    // -1 says that there is none.
    let whole = |field: &str| {
        let number = settings.number(field)?.unwrap_or(-1.0);
        if number.fract() != 0.0 || number > MOST_BUCKETS as f64 {
            return Err(settings.unsupported(field, format!("a whole number up to {MOST_BUCKETS}")));
        }
        Ok(if number < 1.0 { None } else { Some(number as usize) })
    };
    let (buckets, furthest) = (whole("position_buckets")?, whole("max_relative_positions")?);
    let normed = match settings.text("norm_rel_ebd")?.unwrap_or("none") {
        "none" => false,
        "layer_norm" => true,
        _ => return Err(settings.unsupported("norm_rel_ebd", "\"none\" or \"layer_norm\"")),
    };
    let shared = flag(settings, "share_att_key")?;
    let terms = terms(settings)?;
    if !flag(settings, "relative_attention")? {
        return Ok(None);
    }
    let furthest = furthest.unwrap_or(context);
    let span = buckets.unwrap_or(furthest);
    if span > MOST_BUCKETS {
        return Err(
            settings.unsupported("max_position_embeddings", format!("at most {MOST_BUCKETS} with relative positions"))
        );
    }
    if buckets.is_some_and(|buckets| buckets < 4 || furthest <= buckets / 2 + 1) {
        let expected = format!("at least 4, and less than twice the furthest distance, {furthest}");
        return Err(settings.unsupported("position_buckets", expected));
    }
    Ok(Some(RelativeSpec {
        shape: RelativeShape { span, buckets: buckets.unwrap_or(0), furthest },
        of_queries: terms.iter().any(|term| term == "c2p"),
        of_keys: terms.iter().any(|term| term == "p2c"),
        normed,
        shared,
    }))
}
