#![no_main]

use reward_sidecar::json::row::{ExtraColumns, parse};

// A row of a rollout file: whatever it holds, it is a rollout, a pair of them, or a reason.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for extra_columns in [ExtraColumns::Refuse, ExtraColumns::Keep] {
        let _ = parse(bytes, extra_columns, Some("1"));
    }
});
