//! Why a GPU does not run this binary's kernels, and what to do, by the driver's name of the error.
//!
//! Invariant: a driver that is older than the toolkit is told from a card that the kernels were not built for.

/// The reason and the remedy of `error`, the text of what loading or starting a kernel failed with. It holds the driver's name
/// of the error (`CUresult` of the CUDA driver API). `capability` is the card's compute capability, major and minor.
pub(super) fn of_kernel(error: &str, capability: Option<(i32, i32)>) -> (String, String) {
    // Kernels are shipped as PTX, which the driver compiles when it loads them. 222: it does not know this version of PTX.
    if error.contains("CUDA_ERROR_UNSUPPORTED_PTX_VERSION") {
        let remedy = "Update the driver, or build with an older toolkit: the CUDA version that `nvidia-smi` names is the newest \
                      that this driver takes.";
        return (format!("the driver is older than the CUDA toolkit that built this binary: {error}"), remedy.into());
    }
    let build = match capability {
        Some((major, minor)) => format!(
            "Its compute capability is {major}.{minor}; build with CUDA_COMPUTE_CAP={major}{minor} (bfloat16 needs 8.0)."
        ),
        None => {
            "Its compute capability cannot be read either; `nvidia-smi --query-gpu=compute_cap --format=csv` tells it."
                .into()
        }
    };
    // 209 and 218: nothing in the binary is for this card. PTX for 9.0 is that of 9.0a, which no other card takes.
    let reason = if error.contains("CUDA_ERROR_NO_BINARY_FOR_GPU") || error.contains("CUDA_ERROR_INVALID_PTX") {
        "this binary has no kernels for this card"
    } else {
        "the kernels of this binary do not run on it"
    };
    (format!("{reason}: {error}"), build)
}

#[cfg(test)]
mod tests {
    use super::of_kernel;

    /// As cudarc's `DriverError` writes itself.
    fn loading(name: &str) -> String {
        format!("DriverError({name}, \"what the driver says\") when loading affine")
    }

    #[test]
    fn an_old_driver_is_told_from_another_card() {
        let card = Some((10, 0));
        let (reason, remedy) = of_kernel(&loading("CUDA_ERROR_UNSUPPORTED_PTX_VERSION"), card);
        assert!(reason.starts_with("the driver is older than the CUDA toolkit"), "{reason}");
        assert!(remedy.contains("Update the driver") && !remedy.contains("CUDA_COMPUTE_CAP"), "{remedy}");
        for name in ["CUDA_ERROR_NO_BINARY_FOR_GPU", "CUDA_ERROR_INVALID_PTX"] {
            let (reason, remedy) = of_kernel(&loading(name), card);
            assert!(
                reason.starts_with("this binary has no kernels for this card") && reason.contains(name),
                "{reason}"
            );
            assert!(remedy.contains("CUDA_COMPUTE_CAP=100") && !remedy.contains("driver"), "{remedy}");
        }
    }

    #[test]
    fn any_other_error_is_passed_on_with_what_is_known_of_the_card() {
        let (reason, remedy) = of_kernel(&loading("CUDA_ERROR_OUT_OF_MEMORY"), None);
        assert!(reason.contains("CUDA_ERROR_OUT_OF_MEMORY") && remedy.contains("compute_cap"), "{reason} {remedy}");
    }
}
