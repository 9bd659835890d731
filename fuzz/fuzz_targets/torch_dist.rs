#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reward_sidecar::model::fuzzing::torch_dist(bytes));
