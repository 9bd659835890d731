//! W3C trace context: the caller's span as the parent of ours. A malformed value is ignored, as the specification
//! demands (<https://www.w3.org/TR/trace-context/#traceparent-header>): tracing never costs anybody a reward.

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The remote span that a `traceparent` names; `None` where it names none.
pub fn remote_parent(traceparent: &str) -> Option<Context> {
    let mut fields = traceparent.split('-');
    let version = hex(fields.next()?, 2)?;
    let trace = hex(fields.next()?, 32)?;
    let span = hex(fields.next()?, 16)?;
    let flags = hex(fields.next()?, 2)?;
    // Later versions may append fields; version 00 may not, and ff is no version.
    if version == 0xff || (version == 0 && fields.next().is_some()) {
        return None;
    }
    // Eight bytes and one byte, by the number of digits.
    let (span, flags) = (SpanId::from(span as u64), TraceFlags::new(flags as u8) & TraceFlags::SAMPLED);
    let context = SpanContext::new(TraceId::from(trace), span, flags, true, TraceState::NONE);
    // All-zero ids are invalid.
    context.is_valid().then(|| Context::new().with_remote_span_context(context))
}

/// Makes the span that `traceparent` names the parent of `span`. Must come before `span` is entered. Without a
/// collector, or with a malformed value, nothing happens.
pub fn adopt(span: &tracing::Span, traceparent: &str) {
    if !traceparent.is_empty()
        && let Some(parent) = remote_parent(traceparent)
    {
        // Refused where spans are not exported: then there is nothing to link.
        let _ = span.set_parent(parent);
    }
}

/// Exactly `digits` lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (text.len() == digits && text.bytes().all(lower_hex)).then(|| u128::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_good_value() {
        let context = remote_parent(GOOD).unwrap();
        let span = context.span().span_context().clone();
        assert_eq!(span.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(span.span_id().to_string(), "00f067aa0ba902b7");
        assert!(span.is_sampled() && span.is_remote());
        let unsampled = remote_parent(&GOOD.replace("-01", "-00")).unwrap();
        assert!(!unsampled.span().span_context().is_sampled());
    }

    #[test]
    fn a_later_version_may_say_more() {
        assert!(remote_parent(&format!("cc{}-what-the-future-holds", &GOOD[2..])).is_some());
        assert!(remote_parent(&format!("{GOOD}-more")).is_none());
    }

    #[test]
    fn malformed_values_are_ignored() {
        let zero_trace = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        let zero_span = "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01";
        for bad in ["", "-", "00", "hello", "00-4bf9-00f0-01", zero_trace, zero_span] {
            assert!(remote_parent(bad).is_none(), "{bad}");
        }
        assert!(remote_parent(&GOOD.to_uppercase()).is_none());
        assert!(remote_parent(&format!("ff{}", &GOOD[2..])).is_none());
        assert!(remote_parent(&format!("+0{}", &GOOD[2..])).is_none());
        assert!(remote_parent(&format!(" {GOOD}")).is_none());
        assert!(remote_parent(&GOOD.replace('4', "é")).is_none());
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,80}") {
            let _ = remote_parent(&text);
        }
    }
}
