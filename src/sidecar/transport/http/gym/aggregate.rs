//! `POST /aggregate_metrics`: statistics of verify responses (`nemo_gym/reward_profile.py`): mean, maximum, minimum, median and standard
//! deviation of each number that stands at the top of a response, over all of them and for each task.
//!
//! Invariant: a masked response is counted, and its numbers are no part of any statistic.

use std::collections::BTreeMap;

use axum::body::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::sidecar::transport::http::reply::{Refusal, Reply};

#[derive(Deserialize)]
struct Body {
    verify_responses: Vec<Map<String, Value>>,
}

const TASK: &str = "_ng_task_index";
const ROLLOUT: &str = "_ng_rollout_index";

/// See the module.
pub(in crate::sidecar::transport::http) async fn aggregate_metrics(body: Bytes) -> Result<Reply, Refusal> {
    let body: Body = serde_json::from_slice(&body).map_err(|error| Refusal::body(&error))?;
    let is_masked = |response: &&Map<String, Value>| response.get("mask_sample") == Some(&Value::Bool(true));
    let (masked, scored): (Vec<_>, Vec<_>) = body.verify_responses.iter().partition(is_masked);
    let mut tasks: BTreeMap<i64, Vec<&Map<String, Value>>> = BTreeMap::new();
    for response in &scored {
        tasks.entry(response.get(TASK).and_then(Value::as_i64).unwrap_or(0)).or_default().push(response);
    }
    let groups: Vec<Value> = tasks
        .iter()
        .map(|(task, responses)| {
            let mut group = statistics(responses);
            group.insert(TASK.into(), (*task).into());
            Value::Object(group)
        })
        .collect();
    let mut all = statistics(&scored);
    if !masked.is_empty() {
        all.insert("masked_samples".into(), masked.len().into());
        all.insert("scored_samples".into(), scored.len().into());
    }
    let key: Map<String, Value> = all
        .iter()
        .filter(|(name, _)| !["max/", "min/", "median/", "std/"].iter().any(|p| name.starts_with(p)))
        .map(|(n, v)| (n.clone(), v.clone()))
        .collect();
    Ok(Reply::json(&json!({"group_level_metrics": groups, "agent_metrics": all, "key_metrics": key})))
}

fn statistics(responses: &[&Map<String, Value>]) -> Map<String, Value> {
    let mut columns: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (name, value) in responses.iter().flat_map(|response| response.iter()) {
        if let Some(number) = value.as_f64().filter(|_| ![TASK, ROLLOUT].contains(&name.as_str())) {
            columns.entry(name).or_default().push(number);
        }
    }
    let mut statistics = Map::new();
    for (name, mut values) in columns {
        values.sort_by(f64::total_cmp);
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let median = (values[(n - 1) / 2] + values[n / 2]) / 2.0;
        // Of a sample, as pandas has it; of one value it is 0.
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = if n > 1 { (squares / (n - 1) as f64).sqrt() } else { 0.0 };
        for (of, value) in
            [("mean", mean), ("max", values[n - 1]), ("min", values[0]), ("median", median), ("std", deviation)]
        {
            statistics.insert(format!("{of}/{name}"), json!(value));
        }
    }
    statistics
}
