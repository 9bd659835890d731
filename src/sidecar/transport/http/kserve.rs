//! KServe's open inference protocol, version 2, over HTTP, with Triton's binary tensors: what NeMo-Aligner's client (PyTriton's) and
//! `tritonclient` speak.
//!
//! | input | type and shape | |
//! |---|---|---|
//! | `tokens` | integers `[B, S]` | padded rows of token ids |
//! | `sequence_lengths` | integers `[B]` or `[B, 1]` | how many ids of each row count |
//! | `sentences` | `BYTES` `[B]` or `[B, 1]` | texts that carry their template, in place of tokens |
//!
//! Outputs, all `FP32`: `rewards` `[B, 1]` and `attributes` `[B, number of attributes]`.
//!
//! Invariant: of each row only the first `sequence_lengths` ids are read. Tokens without lengths are refused: padding is not to be
//! told from tokens.

mod about;
mod tensors;

use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::tensors::{InputTensor, Wire};
use super::dialect::{Dialect, Scored};
use super::reply::{Refusal, Reply};
use super::request::{Item, ModelIn, Request};
use crate::reward::{Code, Rejection};

pub(super) use self::about::{config, metadata, model_ready, ready, server};

/// How many bytes of a body are JSON; tensors follow.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    id: String,
    inputs: Vec<InputTensor>,
    #[serde(default)]
    outputs: Vec<Wanted>,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Deserialize)]
struct Wanted {
    name: String,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Default, Deserialize)]
struct Parameters {
    binary_data: Option<bool>,
    binary_data_output: Option<bool>,
}

/// See the module.
pub(super) struct Infer {
    id: String,
    model: String,
    /// Names, and whether in binary.
    outputs: Vec<(String, bool)>,
}

const OUTPUTS: [&str; 2] = ["rewards", "attributes"];

#[derive(Serialize)]
struct OutputTensor {
    name: String,
    datatype: &'static str,
    shape: [usize; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Vec<f32>>,
}

impl Dialect for Infer {
    /// Both clients wait for 60 s.
    const HOLD: Option<Duration> = Some(Duration::from_secs(55));
    const MODEL_IN: ModelIn = ModelIn::Path;

    fn parse(request: &Request) -> Result<(Self, Vec<Item>), Refusal> {
        let (head, binary) = split(request)?;
        let body: Body = serde_json::from_slice(&head).map_err(|error| Refusal::body(&error))?;
        let items = items(request, body.inputs, binary)?;
        let in_binary = body.parameters.binary_data_output.unwrap_or(false);
        let mut outputs: Vec<(String, bool)> = body
            .outputs
            .into_iter()
            .map(|wanted| (wanted.name, wanted.parameters.binary_data.unwrap_or(in_binary)))
            .collect();
        if outputs.is_empty() {
            outputs = OUTPUTS.map(|name| (name.to_owned(), in_binary)).into();
        }
        if let Some((name, _)) = outputs.iter().find(|(name, _)| !OUTPUTS.contains(&name.as_str())) {
            return Err(Refusal::malformed(format!("outputs: there is no '{name}'; there are {}", OUTPUTS.join(", "))));
        }
        let model = request.model(Self::MODEL_IN).unwrap_or_default();
        Ok((Self { id: body.id, model, outputs }, items))
    }

    fn render(self, scored: &Scored) -> Result<Reply, Refusal> {
        let all = scored.all()?;
        let (mut tensors, mut binary) = (Vec::new(), Vec::new());
        for (name, in_binary) in self.outputs {
            let values: Vec<f32> = match name.as_str() {
                "rewards" => all.iter().map(|rewards| rewards.reward).collect(),
                _ => all.iter().flat_map(|rewards| rewards.attributes.iter().copied()).collect(),
            };
            let shape = [all.len(), values.len() / all.len()];
            let (parameters, data) = if in_binary {
                binary.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                (Some(json!({"binary_data_size": 4 * values.len()})), None)
            } else {
                (None, Some(values))
            };
            tensors.push(OutputTensor { name, datatype: "FP32", shape, parameters, data });
        }
        let head = json!({"id": self.id, "model_name": self.model, "model_version": "1", "outputs": tensors});
        let mut reply = Reply::json(&head);
        if !binary.is_empty() {
            reply.headers = vec![
                (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
                (JSON_LENGTH, reply.body.len().into()),
            ];
            reply.body = [reply.body.as_ref(), &binary].concat().into();
        }
        Ok(reply)
    }

    /// A text under `error`; the client's faults are 400 here.
    fn refuse(refusal: &Refusal) -> Reply {
        let mut refusal = refusal.clone();
        if refusal.status == StatusCode::UNPROCESSABLE_ENTITY {
            refusal.status = StatusCode::BAD_REQUEST;
        }
        let each = refusal.rejected.iter().map(|(i, rejection)| format!("input {i}: {rejection}"));
        let message = if refusal.rejected.len() > 1 {
            each.collect::<Vec<_>>().join("; ")
        } else {
            format!("{}: {}", refusal.code, refusal.message)
        };
        refusal.reply_with(&json!({"error": message}))
    }
}

/// The JSON of a body, and the tensors behind it.
fn split(request: &Request) -> Result<(Bytes, Bytes), Refusal> {
    let Some(length) = request.headers.get(JSON_LENGTH) else {
        return Ok((request.raw.clone(), Bytes::new()));
    };
    let length = length.to_str().ok().and_then(|length| length.parse::<usize>().ok());
    match length.filter(|&length| length <= request.raw.len()) {
        Some(length) => Ok((request.raw.slice(..length), request.raw.slice(length..))),
        None => Err(Refusal::malformed("inference-header-content-length: not a number of bytes that the body has")),
    }
}

/// Each row of the input as a rollout.
fn items(request: &Request, inputs: Vec<InputTensor>, binary: Bytes) -> Result<Vec<Item>, Refusal> {
    let mut wire = Wire::new(binary);
    let (mut tokens, mut lengths, mut sentences) = (None, None, None);
    for input in inputs {
        match input.name.as_str() {
            "tokens" => tokens = Some((input.shape.clone(), wire.integers(input)?)),
            "sequence_lengths" => lengths = Some(wire.integers(input)?),
            "sentences" => sentences = Some(wire.texts(input)?),
            name => {
                let message =
                    format!("inputs: there is no '{name}'; there are tokens with sequence_lengths, or sentences");
                return Err(Refusal::malformed(message));
            }
        }
    }
    wire.end()?;
    match (tokens, lengths, sentences) {
        (Some((shape, tokens)), Some(lengths), None) => rows(request, &shape, &tokens, &lengths),
        (Some(_), None, None) => Err(Refusal::malformed(
            "inputs: tokens without sequence_lengths; padding cannot be told from tokens, so say how many ids of each row count",
        )),
        (None, None, Some(sentences)) => Ok(sentences.into_iter().map(|text| request.text(text?)).collect()),
        _ => Err(Refusal::malformed("inputs: give tokens with sequence_lengths, or sentences")),
    }
}

fn rows(request: &Request, shape: &[usize], tokens: &[i64], lengths: &[i64]) -> Result<Vec<Item>, Refusal> {
    let &[rows, columns] = shape else {
        return Err(Refusal::malformed(format!("tokens: {} dimensions; two, rows and ids", shape.len())));
    };
    if lengths.len() != rows {
        return Err(Refusal::malformed(format!("sequence_lengths: {} for {rows} rows of tokens", lengths.len())));
    }
    let row = |(i, &length): (usize, &i64)| {
        let row = &tokens[i * columns..(i + 1) * columns];
        let length = usize::try_from(length).ok().filter(|&length| length <= columns).ok_or_else(|| {
            Refusal::malformed(format!("sequence_lengths[{i}]: {length} is no part of a row of {columns} ids"))
        })?;
        let id = |(at, &id): (usize, &i64)| {
            u32::try_from(id).map_err(|_| {
                let message = format!("tokens[{i}][{at}]: {id} is no token id of any vocabulary");
                Rejection::new(Code::TokenOutOfRange, message)
            })
        };
        let ids = row[..length].iter().enumerate().map(id).collect::<Result<Vec<u32>, _>>();
        Ok(ids.and_then(|ids| request.ids(ids)))
    };
    lengths.iter().enumerate().map(row).collect()
}
