//! What the machine is: processor, cores, memory, GPU.

use std::fs;
use std::path::Path;

use super::{Finding, gib};
use crate::model;
use crate::model::compute::kernels::Isa;

/// Which instructions the kernels use.
pub fn processor() -> Finding {
    let name = fs::read_to_string("/proc/cpuinfo").ok();
    let name = name.as_deref().and_then(|text| value_of(text, "model name")).unwrap_or(std::env::consts::ARCH);
    let isa = Isa::detect();
    let found = format!("{name}; kernels use {}", isa.name());
    if cfg!(target_arch = "x86_64") && Isa::available().len() == 1 {
        return Finding::note(
            "processor",
            found,
            "without AVX2 and FMA rewards have the same bits, very slowly; use another processor",
        );
    }
    Finding::ok("processor", found)
}

/// How many cores the process may use, of how many there are.
pub fn cores() -> Finding {
    let all = fs::read_to_string("/proc/cpuinfo")
        .map_or(0, |text| text.lines().filter(|l| l.starts_with("processor")).count());
    let Ok(usable) = std::thread::available_parallelism().map(usize::from) else {
        return Finding::note("cores", "unknown", "say how many to use: --threads");
    };
    if usable < all {
        let found = format!("{usable} of {all}: an affinity or a control group's quota leaves so many");
        return Finding::ok("cores", found);
    }
    Finding::ok("cores", usable.to_string())
}

/// What is free: weights and prefix cache have to fit.
pub fn memory() -> Finding {
    match model::available_memory() {
        Some(bytes) => Finding::ok(
            "memory",
            format!(
                "{} free; `inspect --model REF` says what a model takes",
                gib(u64::try_from(bytes).unwrap_or(u64::MAX))
            ),
        ),
        None => Finding::note("memory", "unknown", "the system does not tell; state --prefix-cache-bytes"),
    }
}

/// Whether there is an NVIDIA GPU, its driver, and a binary that can use both.
pub fn gpu() -> Finding {
    let driver = fs::read_to_string("/proc/driver/nvidia/version").ok();
    let driver = driver
        .as_deref()
        .and_then(|text| text.lines().next())
        .map(|line| line.trim_start_matches("NVRM version:").trim());
    let device = Path::new("/dev/nvidia0").exists();
    match (cfg!(feature = "cuda"), driver, device) {
        (_, None, false) => Finding::ok("GPU", "no NVIDIA GPU; scores on the CPU"),
        (_, None, true) => {
            Finding::note("GPU", "a device without its driver", "install the driver; `nvidia-smi` should list the GPU")
        }
        (_, Some(driver), false) => Finding::note(
            "GPU",
            format!("{driver}, but no device here"),
            "pass it into the container: --gpus all, or the device plugin",
        ),
        (false, Some(driver), true) => Finding::note(
            "GPU",
            driver,
            "this binary was built without CUDA and uses the CPU; see the docs for the GPU build",
        ),
        (true, Some(driver), true) => Finding::ok("GPU", driver),
    }
}

/// The first value of a field in a file of `name : value` lines.
fn value_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_name() {
        let text = "processor\t: 0\nmodel name\t: A Processor 9000\nprocessor\t: 1\n";
        assert_eq!(value_of(text, "model name"), Some("A Processor 9000"));
        assert_eq!(value_of(text, "flags"), None);
    }
}
