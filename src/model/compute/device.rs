//! Which device a rank computes on, and how. Opening one either works or says what is missing and what to do; it never
//! panics.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;

use super::backend::Backend;
use super::dtype::Dtype;
use crate::model::compute::dtype::Precision;
use crate::model::error::ModelError;

/// A device, as the configuration names it: `cpu`, `cuda`, or `cuda:2`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The CPU, with kernels of our own.
    #[default]
    Cpu,
    /// The NVIDIA GPU of this number, as CUDA counts them: `CUDA_VISIBLE_DEVICES` hides and reorders.
    Cuda(usize),
    /// The CPU, with the tensor operations that GPUs run, in this type: what can be tested of them without a GPU. Slower
    /// than [`Self::Cpu`]; no configuration names it.
    CpuTensors(Precision),
}

impl DeviceChoice {
    /// The device of a rank, where the first has this one: ranks share the CPU and have a GPU each.
    pub fn of_rank(self, rank: usize) -> Self {
        match self {
            Self::Cuda(first) => Self::Cuda(first + rank),
            cpu => cpu,
        }
    }

    /// How layers compute there.
    pub(in crate::model) fn backend(self, dtype: Dtype) -> Result<Backend, ModelError> {
        match (self, dtype) {
            (Self::Cpu, dtype) => Ok(Backend::Kernels(dtype.weight_type())),
            (Self::Cuda(_), dtype) if dtype == Dtype::Auto || dtype.name() == Precision::Bf16.name() => {
                Ok(Backend::Tensors(Precision::Bf16))
            }
            (Self::CpuTensors(precision), Dtype::Auto) => Ok(Backend::Tensors(precision)),
            (device, dtype) => Err(ModelError::WeightType { device: device.to_string(), dtype: dtype.to_string() }),
        }
    }

    /// Opens the devices of `world` ranks, of which the first has this one.
    pub(in crate::model) fn open_all(self, world: usize) -> Result<Vec<Device>, ModelError> {
        (0..world).map(|rank| self.of_rank(rank).open()).collect()
    }

    /// The arithmetic of a model on `world` ranks: models of one name, one digest and one arithmetic give the same bits
    /// as far as [`Backend`] promises it.
    pub(in crate::model) fn arithmetic(self, backend: Backend, world: usize) -> String {
        let arithmetic = match (backend, self) {
            (Backend::Kernels(weights), _) if weights.rounds_by_rank() => weights.version().into(),
            // The same bits at every degree.
            (Backend::Kernels(weights), _) => return weights.version().into(),
            (Backend::Tensors(precision), Self::Cuda(_)) if cfg!(feature = "flash-attn") => {
                format!("{precision}-cuda-flash")
            }
            (Backend::Tensors(precision), Self::Cuda(_)) => format!("{precision}-cuda"),
            (Backend::Tensors(precision), _) => format!("{precision}-tensors"),
        };
        match world {
            1 => arithmetic,
            _ => format!("{arithmetic}-tp{world}"),
        }
    }

    /// Opens the device.
    fn open(self) -> Result<Device, ModelError> {
        match self {
            Self::Cpu | Self::CpuTensors(_) => Ok(Device::Cpu),
            Self::Cuda(number) => cuda::open(number).map_err(|(reason, remedy)| ModelError::Device {
                device: self.to_string(),
                reason,
                remedy,
            }),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::CpuTensors(precision) => write!(f, "cpu with tensors of {precision}"),
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

    use crate::model::compute::device::Refusal;
    use crate::model::compute::gpu_refusal;

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
        first_kernel(&device).map_err(|e| gpu_refusal::of_kernel(&e.to_string(), compute_capability(number).ok()))?;
        // For all of the process. Of float32 there are two products on a GPU, both of attention, whose operands TF32
        // rounds to 11 bits: keys and values, which are bfloat16, not at all; scaled queries and the softmax's weights
        // eight times finer than bfloat16 would.
        candle_core::cuda::set_gemm_reduced_precision_f32(true);
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
    use crate::model::compute::device::{Device, Refusal};

    pub(super) fn open(_: usize) -> Result<Device, Refusal> {
        Err((
            "this binary was built for the CPU alone".into(),
            "Build it with `--features cuda`, or choose cpu.".into(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use crate::model::compute::device::*;

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

    #[test]
    fn arithmetic_names_what_changes_bits() {
        let name = |device: DeviceChoice, dtype, world| device.arithmetic(device.backend(dtype).unwrap(), world);
        let cpu = |dtype: &str| [1, 4].map(|world| name(DeviceChoice::Cpu, dtype.parse().unwrap(), world));
        assert_eq!(cpu("auto"), ["f32", "f32"]);
        assert_eq!(cpu("bf16"), ["bf16-weights", "bf16-weights"]);
        assert_eq!(cpu("bf16-activations"), ["bf16-activations"; 2]);
        assert_eq!(cpu("int8"), ["int8", "int8-tp4"]);
        assert_eq!(name(DeviceChoice::CpuTensors(Precision::F32), Dtype::Auto, 1), "f32-tensors");
        assert_eq!(name(DeviceChoice::CpuTensors(Precision::Bf16), Dtype::Auto, 4), "bf16-tensors-tp4");
        // Whichever GPU it is.
        let cuda = |number| name(DeviceChoice::Cuda(number), Dtype::Auto, 2);
        assert_eq!(cuda(1), cuda(0));
        assert!(cuda(0).starts_with("bf16-cuda"));
    }

    #[test]
    fn a_type_that_a_device_does_not_have_is_refused() {
        assert!(DeviceChoice::Cuda(0).backend("bf16".parse().unwrap()).is_ok());
        for dtype in ["f32", "int8"].map(|name| name.parse::<Dtype>().unwrap()) {
            let error = DeviceChoice::Cuda(0).backend(dtype).unwrap_err().to_string();
            assert!(error.contains("cuda:0") && error.contains(&dtype.to_string()), "{error}");
        }
    }

    /// True with a driver and without, and of binaries with CUDA and without: no machine has so many GPUs.
    #[test]
    fn a_gpu_that_is_not_there_is_an_error_that_names_it() {
        let error = DeviceChoice::Cuda(1_000_000).open().unwrap_err().to_string();
        assert!(error.starts_with("cannot compute on cuda:1000000: "), "{error}");
        assert!(DeviceChoice::Cpu.open().unwrap().is_cpu());
    }
}
