//! What a client of KServe's protocol asks before its first inference: liveness, readiness, metadata, and Triton's model configuration,
//! by which PyTriton's client knows names, types and dimensions.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{Refusal, Reply};
use crate::sidecar::Served;
use crate::sidecar::transport::http::state::Shared;

/// `GET /v2`.
pub(in crate::sidecar::transport::http) async fn server() -> Reply {
    Reply::json(&json!({
        "name": "reward-sidecar",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": ["binary_tensor_data", "model_configuration"],
    }))
}

/// Of the server.
pub(in crate::sidecar::transport::http) async fn ready(State(shared): State<Shared>) -> StatusCode {
    if shared.health.failure().is_none() && !*shared.draining.borrow() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

/// Of a model, which is ready when the server is.
pub(in crate::sidecar::transport::http) async fn model_ready(
    State(shared): State<Shared>,
    Path(names): Path<Vec<String>>,
) -> Result<StatusCode, Refusal> {
    model(&shared, &names)?;
    Ok(ready(State(shared)).await)
}

/// The model that a path names, behind which a version may stand.
fn model(shared: &Shared, names: &[String]) -> Result<Arc<Served>, Refusal> {
    shared.model(&shared.asked("", || names.first().cloned()))
}

/// `(name, datatype, dimensions of one row)`; -1 is any.
fn inputs() -> [(&'static str, &'static str, Vec<i64>); 3] {
    [("tokens", "INT64", vec![-1]), ("sequence_lengths", "INT64", vec![1]), ("sentences", "BYTES", vec![1])]
}

fn outputs(attributes: usize) -> [(&'static str, &'static str, Vec<i64>); 2] {
    [("rewards", "FP32", vec![1]), ("attributes", "FP32", vec![attributes as i64])]
}

/// `GET /v2/models/NAME`.
pub(in crate::sidecar::transport::http) async fn metadata(
    State(shared): State<Shared>,
    Path(names): Path<Vec<String>>,
) -> Result<Reply, Refusal> {
    let tensor = |(name, datatype, dims): (&str, &str, Vec<i64>)| {
        let shape: Vec<i64> = std::iter::once(-1).chain(dims).collect();
        json!({"name": name, "datatype": datatype, "shape": shape})
    };
    let attributes = model(&shared, &names)?.card().attributes.len();
    Ok(Reply::json(&json!({
        "name": names.first(),
        "versions": ["1"],
        "platform": "reward-sidecar",
        "inputs": inputs().map(tensor),
        "outputs": outputs(attributes).map(tensor),
    })))
}

/// `GET /v2/models/NAME/config`.
pub(in crate::sidecar::transport::http) async fn config(
    State(shared): State<Shared>,
    Path(names): Path<Vec<String>>,
) -> Result<Reply, Refusal> {
    let tensor = |(name, datatype, dims): (&str, &str, Vec<i64>), optional: bool| -> Value {
        let datatype = if datatype == "BYTES" { "TYPE_STRING".to_owned() } else { format!("TYPE_{datatype}") };
        json!({"name": name, "data_type": datatype, "dims": dims, "optional": optional})
    };
    let attributes = model(&shared, &names)?.card().attributes.len();
    Ok(Reply::json(&json!({
        "name": names.first(),
        "platform": "",
        "backend": "python",
        "max_batch_size": super::super::body::MAX_INPUTS,
        "version_policy": {"latest": {"num_versions": 1}},
        "input": inputs().map(|input| tensor(input, true)),
        "output": outputs(attributes).map(|output| tensor(output, false)),
        "instance_group": [],
        "parameters": {},
        "model_transaction_policy": {"decoupled": false},
    })))
}
