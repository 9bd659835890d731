//! Compiles the protocol without `protoc`: protox parses it, tonic generates the code.

#![allow(clippy::disallowed_methods, reason = "cargo speaks to build scripts through the environment")]

use std::{env, error::Error, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    const PROTO: &str = "proto/reward/v1/reward.proto";
    println!("cargo:rerun-if-changed={PROTO}");
    // For `--version`. What the build is made of is in the environment of those who ship it: see src/cli/version.rs.
    println!("cargo:rustc-env=REWARD_SIDECAR_TARGET={}", env::var("TARGET")?);
    let descriptors = protox::compile([PROTO], ["proto"])?;
    // Kept for the reflection service.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    std::fs::write(out.join("reward.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_client(env::var_os("CARGO_FEATURE_CLIENT").is_some())
        .build_server(env::var_os("CARGO_FEATURE_SIDECAR").is_some())
        .compile_fds(descriptors)?;
    Ok(())
}
