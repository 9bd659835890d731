//! PairRM: DeBERTa v2 over a prompt and two answers to it, read at the token before each of the three. Source:
//! `llm_blender/pair_ranker/pairrm.py` of yuchenlin/LLM-Blender.

use serde_json::Value;

use super::deberta_v2::DebertaV2;
use super::encoder::EncoderArchitecture;
use crate::model::error::ModelError;
use crate::model::network::encoder::{EncoderNames, EncoderSpec, Pool};
use crate::model::network::head::HeadSpec;
use crate::model::settings::Settings;

/// PairRM.
pub struct PairRm;

/// Fields with the ids of the tokens before the prompt, the first answer and the second.
const ANCHORS: [&str; 3] = ["source_prefix_id", "cand1_prefix_id", "cand2_prefix_id"];

/// Most tokens of a rollout: those to which the code on the model's card cuts it. The class itself has no bound where it has no table
/// of positions: all that are far enough apart are in one bucket.
const CONTEXT: usize = 2048;

impl EncoderArchitecture for PairRm {
    fn name(&self) -> &'static str {
        "DebertaV2PairRM"
    }

    fn spec(&self, settings: &Settings) -> Result<EncoderSpec, ModelError> {
        // Dropout, tokens at which the class does not read, and a pooler that it does not have.
        for field in ["drop_out", "sep_token_id", "cand_prefix_id", "pooler_hidden_act"] {
            settings.get(field);
        }
        let spec = DebertaV2.spec(settings)?;
        Ok(EncoderSpec {
            context: spec.positions.map_or(CONTEXT, |table| table.rows.min(CONTEXT)),
            pool: Pool::Anchors(anchors(settings)?),
            names: EncoderNames { prefix: "pretrained_model", ..spec.names },
            ..spec
        })
    }

    fn anchors(&self, settings: &Settings) -> Result<Option<[u32; 3]>, ModelError> {
        anchors(settings).map(Some)
    }

    fn head(&self, _: &Settings) -> Result<HeadSpec, ModelError> {
        Ok(HeadSpec { kind: "comparison".to_owned(), options: toml::Table::new() })
    }
}

/// Three tokens of the vocabulary, no two alike.
fn anchors(settings: &Settings) -> Result<[u32; 3], ModelError> {
    let vocabulary = settings.required_size("vocab_size")?;
    let mut found = Vec::with_capacity(ANCHORS.len());
    for field in ANCHORS {
        let id = settings.get(field).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        match id.filter(|id| (*id as usize) < vocabulary && !found.contains(id)) {
            Some(id) => found.push(id),
            None => {
                let expected = format!("the id of a token, below {vocabulary} and unlike those of the other texts");
                return Err(settings.unsupported(field, expected));
            }
        }
    }
    Ok([found[0], found[1], found[2]])
}
