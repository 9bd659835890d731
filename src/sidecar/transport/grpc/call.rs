//! What a whole call says about all of its rollouts: its deadline and its trace context.

use std::time::{Duration, Instant};

use tonic::metadata::MetadataMap;

use crate::limits;
use crate::rollout::Rollout;

/// See the module.
pub(super) struct Call {
    deadline: Option<Instant>,
    traceparent: String,
    tracestate: String,
}

impl Call {
    pub(super) fn of(metadata: &MetadataMap) -> Self {
        let text = |key| metadata.get(key).and_then(|value| value.to_str().ok());
        Self {
            deadline: text("grpc-timeout")
                .and_then(parse_timeout)
                .and_then(|timeout| Instant::now().checked_add(timeout)),
            traceparent: text("traceparent").unwrap_or_default().to_owned(),
            tracestate: text("tracestate").unwrap_or_default().to_owned(),
        }
    }

    /// What the rollout does not say itself, its call says; of two deadlines the earlier counts.
    pub(super) fn bind(&self, mut rollout: Rollout) -> Rollout {
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now()).as_millis();
            let left = u64::try_from(left).unwrap_or(u64::MAX).min(limits::MAX_DEADLINE_MS);
            rollout.deadline_ms = Some(rollout.deadline_ms.map_or(left, |own| own.min(left)));
        }
        if rollout.traceparent.is_empty() {
            rollout.traceparent.clone_from(&self.traceparent);
            rollout.tracestate.clone_from(&self.tracestate);
        }
        rollout
    }
}

/// `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2, "Requests"). What is malformed does not count.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_as_the_specification_has_them() {
        assert_eq!(parse_timeout("1S"), Some(Duration::from_secs(1)));
        assert_eq!(parse_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        for malformed in ["", "m", "S1", "+1S", "1.5S", "123456789S", "1s", "1é"] {
            assert_eq!(parse_timeout(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn the_earlier_deadline_counts_and_the_rollouts_own_trace() {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", "10S".parse().unwrap());
        metadata.insert("traceparent", "call".parse().unwrap());
        metadata.insert("tracestate", "vendor=1".parse().unwrap());
        let call = Call::of(&metadata);
        let own = call.bind(Rollout { deadline_ms: Some(5), traceparent: "own".into(), ..Rollout::default() });
        assert_eq!((own.deadline_ms, own.traceparent.as_str(), own.tracestate.as_str()), (Some(5), "own", ""));
        let late = call.bind(Rollout { deadline_ms: Some(60_000), ..Rollout::default() });
        assert!(late.deadline_ms.is_some_and(|ms| ms <= 10_000));
        assert_eq!((late.traceparent.as_str(), late.tracestate.as_str()), ("call", "vendor=1"));
    }
}
