//! Which device a rank computes on. Opening one either works or says what is missing and what to do; it never panics.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;

use super::ModelError;

/// A device, as the configuration names it: `cpu`, `cuda`, or `cuda:2`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The CPU, with kernels of our own.
    #[default]
    Cpu,
    /// The NVIDIA GPU of this number, as CUDA counts them: `CUDA_VISIBLE_DEVICES` hides and reorders.
    Cuda(usize),
}

impl DeviceChoice {
    /// The device of a rank, where the first has this one: ranks share the CPU and have a GPU each.
    pub fn of_rank(self, rank: usize) -> Self {
        match self {
            Self::Cpu => Self::Cpu,
            Self::Cuda(first) => Self::Cuda(first + rank),
        }
    }

    /// Opens the device.
    #[cfg_attr(not(test), expect(dead_code, reason = "the layers of other devices than the CPU come next"))]
    pub(super) fn open(self) -> Result<Device, ModelError> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(number) => {
                cuda::open(number).map_err(|(reason, remedy)| ModelError::Device { device: self, reason, remedy })
            }
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// The text names no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no device; expected cpu, cuda or cuda:N, N counted from 0")]
pub struct UnknownDevice(String);

impl FromStr for DeviceChoice {
    type Err = UnknownDevice;

    fn from_str(text: &str) -> Result<Self, UnknownDevice> {
        let number = match text {
            "cpu" => return Ok(Self::Cpu),
            "cuda" => Some(0),
            // Not `+1`, which parses.
            _ => text.strip_prefix("cuda:").filter(|n| !n.starts_with('+')).and_then(|n| n.parse().ok()),
        };
        number.map(Self::Cuda).ok_or_else(|| UnknownDevice(text.to_owned()))
    }
}

/// What is wrong, and what to do about it.
type Refusal = (String, String);

#[cfg(feature = "cuda")]
mod cuda {
    use candle_core::cuda::cudarc::driver::{CudaContext, DriverError};
    use candle_core::{DType, Device, Tensor};

    use super::Refusal;

    /// Opens a GPU and runs a first kernel on it, so that what does not fit together shows now.
    pub(super) fn open(number: usize) -> Result<Device, Refusal> {
        let count = CudaContext::device_count().map_err(|e| {
            let remedy = "`nvidia-smi` on this machine should list a GPU; if it does, its driver is too old for the CUDA \
                          toolkit that this binary was built with. Update the driver, or choose cpu.";
            (format!("no usable NVIDIA driver: {}", name(e)), remedy.into())
        })?;
        if usize::try_from(count).is_ok_and(|count| number >= count) {
            let remedy = "CUDA counts them from 0 and sees those of CUDA_VISIBLE_DEVICES alone; with --tp N, N are needed \
                          from the first one on.";
            return Err((format!("CUDA sees {count} GPUs here"), remedy.into()));
        }
        // A stream of its own, not the calling thread's: a model is loaded by one thread and run by others.
        let device = Device::new_cuda_with_stream(number).map_err(|e| {
            (format!("it does not open: {e}"), "`nvidia-smi` tells whether other processes hold it.".into())
        })?;
        first_kernel(&device).map_err(|e| {
            let remedy = match compute_capability(number) {
                Ok((major, minor)) => format!(
                    "Its compute capability is {major}.{minor}; build with CUDA_COMPUTE_CAP={major}{minor} (bfloat16 \
                     needs 8.0)."
                ),
                Err(e) => format!("Its compute capability cannot be read either: {}.", name(e)),
            };
            (format!("the kernels of this binary do not run on it: {e}"), remedy)
        })?;
        Ok(device)
    }

    fn first_kernel(device: &Device) -> candle_core::Result<()> {
        Tensor::ones(1, DType::BF16, device)?.affine(1.0, 1.0)?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        Ok(())
    }

    fn compute_capability(number: usize) -> Result<(i32, i32), DriverError> {
        CudaContext::new(number)?.compute_capability()
    }

    /// The driver's name of an error. Its text, which `Display` asks for, may not be had where there is no driver.
    fn name(error: DriverError) -> String {
        format!("{:?}", error.0)
    }
}

#[cfg(not(feature = "cuda"))]
mod cuda {
    use super::{Device, Refusal};

    pub(super) fn open(_: usize) -> Result<Device, Refusal> {
        Err((
            "this binary was built for the CPU alone".into(),
            "Build it with `--features cuda`, or choose cpu.".into(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for device in [DeviceChoice::Cpu, DeviceChoice::Cuda(0), DeviceChoice::Cuda(11)] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        for text in ["", "gpu", "CPU", "cuda:", "cuda:+1", "cuda:-1", "cuda:1x", "cuda:99999999999999999999"] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }

    #[test]
    fn each_rank_has_the_next_gpu() {
        assert_eq!(DeviceChoice::Cuda(2).of_rank(3), DeviceChoice::Cuda(5));
        assert_eq!(DeviceChoice::Cpu.of_rank(3), DeviceChoice::Cpu);
    }

    /// True with a driver and without, and of binaries with CUDA and without: no machine has so many GPUs.
    #[test]
    fn a_gpu_that_is_not_there_is_an_error_that_names_it() {
        let error = DeviceChoice::Cuda(1_000_000).open().unwrap_err().to_string();
        assert!(error.starts_with("cannot compute on cuda:1000000: "), "{error}");
        assert!(DeviceChoice::Cpu.open().unwrap().is_cpu());
    }
}
