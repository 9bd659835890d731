//! W3C trace context: the caller's span as the parent of ours. A malformed value is ignored, as the specification
//! demands (<https://www.w3.org/TR/trace-context/#traceparent-header>): tracing never costs anybody a reward.

use std::sync::LazyLock;

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

static PROPAGATOR: LazyLock<TraceContextPropagator> = LazyLock::new(TraceContextPropagator::new);

/// The two headers of a trace context; empty means that the caller sent none.
struct Headers<'a> {
    traceparent: &'a str,
    tracestate: &'a str,
}

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let value = match key {
            "traceparent" => self.traceparent,
            "tracestate" => self.tracestate,
            _ => "",
        };
        (!value.is_empty()).then_some(value)
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

/// The remote span that the headers name; `None` where they name none.
fn remote_parent(traceparent: &str, tracestate: &str) -> Option<Context> {
    if !is_well_formed(traceparent) {
        return None;
    }
    let context = PROPAGATOR.extract_with_context(&Context::new(), &Headers { traceparent, tracestate });
    context.has_active_span().then_some(context)
}

/// Whether the four fields are as long as the specification has them, in lower-case hexadecimal digits, and nothing follows
/// in version 00. The propagator also takes shorter ids, signs and white space, which other systems of the trace ignore.
fn is_well_formed(traceparent: &str) -> bool {
    let is_lower_hex = |field: &str| field.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut fields = traceparent.split('-');
    let version = fields.clone().next();
    let complete = [2, 32, 16, 2].into_iter().all(|digits| {
        let field = fields.next();
        field.is_some_and(|field| field.len() == digits && is_lower_hex(field))
    });
    complete && (version != Some("00") || fields.next().is_none())
}

/// Makes the span that the headers name the parent of `span`. Must come before `span` is entered. Without a
/// collector, or with a malformed `traceparent`, nothing happens; a malformed `tracestate` is left out.
pub fn adopt(span: &tracing::Span, traceparent: &str, tracestate: &str) {
    if !traceparent.is_empty()
        && let Some(parent) = remote_parent(traceparent, tracestate)
    {
        // Refused where spans are not exported: then there is nothing to link.
        let _ = span.set_parent(parent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_good_value() {
        let context = remote_parent(GOOD, "").unwrap();
        let span = context.span().span_context().clone();
        assert_eq!(span.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(span.span_id().to_string(), "00f067aa0ba902b7");
        assert!(span.is_sampled() && span.is_remote());
        let unsampled = remote_parent(&GOOD.replace("-01", "-00"), "").unwrap();
        assert!(!unsampled.span().span_context().is_sampled());
    }

    #[test]
    fn the_state_of_the_trace_comes_along() {
        let state = |text: &str| remote_parent(GOOD, text).unwrap().span().span_context().trace_state().header();
        assert_eq!(state("vendor=a1,other=b2"), "vendor=a1,other=b2");
        // Without it the trace is what it was.
        for malformed in ["", "vendor"] {
            assert_eq!(state(malformed), "", "{malformed}");
        }
        assert!(remote_parent("", "vendor=a1").is_none());
    }

    #[test]
    fn a_later_version_may_say_more() {
        assert!(remote_parent(&format!("cc{}-what-the-future-holds", &GOOD[2..]), "").is_some());
        assert!(remote_parent(&format!("{GOOD}-more"), "").is_none());
        assert!(remote_parent(&format!("{GOOD}-"), "").is_none());
    }

    #[test]
    fn malformed_values_are_ignored() {
        let zero_trace = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        let zero_span = "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01";
        for bad in ["", "-", "00", "hello", "00-4bf9-00f0-01", zero_trace, zero_span] {
            assert!(remote_parent(bad, "").is_none(), "{bad}");
        }
        assert!(remote_parent(&GOOD.to_uppercase(), "").is_none());
        assert!(remote_parent(&format!("ff{}", &GOOD[2..]), "").is_none());
        assert!(remote_parent(&format!("+0{}", &GOOD[2..]), "").is_none());
        assert!(remote_parent(&format!(" {GOOD}"), "").is_none());
        assert!(remote_parent(&GOOD.replace('4', "é"), "").is_none());
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,80}", state in "\\PC{0,80}") {
            let _ = (remote_parent(&text, &state), remote_parent(GOOD, &state));
        }
    }
}
