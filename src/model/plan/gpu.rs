//! Published figures of GPUs. Rates are dense (without structured sparsity) and with sums in float32; what a program
//! reaches is a share of them, the utilisation.
//!
//! To add one: a row in [`GPUS`], and where its figures stand.

use super::dtype::Dtype;

/// One kind of GPU.
#[derive(Debug, PartialEq, serde::Serialize)]
pub struct Gpu {
    /// What `--gpu` calls it.
    pub name: &'static str,
    /// What its maker calls it.
    pub title: &'static str,
    /// Memory in GB, as published. Drivers report a little more, which is left as reserve.
    pub memory_gb: f64,
    /// 10^12 float32 operations a second, without tensor cores.
    pub f32_tflops: f64,
    /// 10^12 bfloat16 or float16 operations a second.
    pub bf16_tflops: f64,
    /// 10^12 8-bit floating-point operations a second; `None` where it has none.
    pub fp8_tflops: Option<f64>,
    /// GB a second to other GPUs of the same domain, each way.
    pub link_gb_per_second: f64,
    /// What the link is.
    pub link: &'static str,
    /// How many GPUs of a usual server the link joins.
    pub domain: usize,
}

/// Every known kind.
pub const GPUS: &[Gpu] = &[
    // NVIDIA HGX B200: "NVIDIA Blackwell Architecture Technical Brief", table of HGX B200 at 1000 W (dense is half of the
    // figures with sparsity); memory: "NVIDIA HGX Platform" data sheet, 1.44 TB for 8. NVLink 5: 1.8 TB/s both ways.
    Gpu {
        name: "b200",
        title: "B200 SXM",
        memory_gb: 180.0,
        f32_tflops: 80.0,
        bf16_tflops: 2250.0,
        fp8_tflops: Some(4500.0),
        link_gb_per_second: 900.0,
        link: "NVLink 5",
        domain: 8,
    },
    // "NVIDIA H200 Tensor Core GPU" data sheet, SXM (dense is half of the figures with sparsity). NVLink 4: 900 GB/s both
    // ways.
    Gpu {
        name: "h200",
        title: "H200 SXM",
        memory_gb: 141.0,
        f32_tflops: 67.0,
        bf16_tflops: 989.0,
        fp8_tflops: Some(1979.0),
        link_gb_per_second: 450.0,
        link: "NVLink 4",
        domain: 8,
    },
    // "NVIDIA H100 Tensor Core GPU" data sheet, SXM (dense is half of the figures with sparsity); the architecture white
    // paper says 989.4.
    Gpu {
        name: "h100",
        title: "H100 SXM",
        memory_gb: 80.0,
        f32_tflops: 67.0,
        bf16_tflops: 989.0,
        fp8_tflops: Some(1979.0),
        link_gb_per_second: 450.0,
        link: "NVLink 4",
        domain: 8,
    },
    // "NVIDIA H100 Tensor Core GPU Architecture" white paper, H100 PCIe. PCIe 5 x16: 128 GB/s both ways; bridges join only
    // pairs.
    Gpu {
        name: "h100-pcie",
        title: "H100 PCIe",
        memory_gb: 80.0,
        f32_tflops: 51.2,
        bf16_tflops: 756.0,
        fp8_tflops: Some(1513.0),
        link_gb_per_second: 64.0,
        link: "PCIe 5 x16",
        domain: 8,
    },
    // "NVIDIA A100 Tensor Core GPU" data sheet, SXM. NVLink 3: 600 GB/s both ways.
    Gpu {
        name: "a100",
        title: "A100 80GB SXM",
        memory_gb: 80.0,
        f32_tflops: 19.5,
        bf16_tflops: 312.0,
        fp8_tflops: None,
        link_gb_per_second: 300.0,
        link: "NVLink 3",
        domain: 8,
    },
    // The same.
    Gpu {
        name: "a100-40gb",
        title: "A100 40GB SXM",
        memory_gb: 40.0,
        f32_tflops: 19.5,
        bf16_tflops: 312.0,
        fp8_tflops: None,
        link_gb_per_second: 300.0,
        link: "NVLink 3",
        domain: 8,
    },
    // "NVIDIA L40S" data sheet: 362.05 and 733 are its dense figures. PCIe 4 x16: 64 GB/s both ways.
    Gpu {
        name: "l40s",
        title: "L40S",
        memory_gb: 48.0,
        f32_tflops: 91.6,
        bf16_tflops: 362.05,
        fp8_tflops: Some(733.0),
        link_gb_per_second: 32.0,
        link: "PCIe 4 x16",
        domain: 8,
    },
    // "NVIDIA L4 Tensor Core GPU" data sheet (dense is half of the figures with sparsity). PCIe 4 x16: 64 GB/s both ways.
    Gpu {
        name: "l4",
        title: "L4",
        memory_gb: 24.0,
        f32_tflops: 30.3,
        bf16_tflops: 121.0,
        fp8_tflops: Some(242.5),
        link_gb_per_second: 32.0,
        link: "PCIe 4 x16",
        domain: 8,
    },
    // "NVIDIA Ada GPU Architecture" white paper, appendix on the GeForce RTX 4090: rates with sums in float32, dense. PCIe 4
    // x16: 64 GB/s both ways.
    Gpu {
        name: "rtx-4090",
        title: "GeForce RTX 4090",
        memory_gb: 24.0,
        f32_tflops: 82.6,
        bf16_tflops: 165.2,
        fp8_tflops: Some(330.3),
        link_gb_per_second: 32.0,
        link: "PCIe 4 x16",
        domain: 8,
    },
];

impl Gpu {
    /// The GPU that `--gpu` calls so.
    ///
    /// # Errors
    /// If there is none; the message lists those that there are.
    pub fn find(name: &str) -> Result<&'static Self, UnknownGpu> {
        let found = GPUS.iter().find(|gpu| gpu.name.eq_ignore_ascii_case(name));
        found.ok_or_else(|| UnknownGpu { found: name.to_owned() })
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> u64 {
        (self.memory_gb * 1e9) as u64
    }

    /// Bytes that neither weights nor activations get: the CUDA context, workspaces of cuBLAS, buffers of NCCL (1 GB), and
    /// what an allocator loses between its blocks (a twentieth).
    pub fn reserve_bytes(&self) -> u64 {
        1_000_000_000 + self.memory_bytes() / 20
    }

    /// Most operations a second on matrices whose weights are stored in `dtype`. Integer weights are widened to bf16 for
    /// the product; so are fp8 weights where the GPU has no such arithmetic.
    pub fn peak_flops(&self, dtype: Dtype) -> f64 {
        let tflops = match dtype {
            Dtype::F32 => self.f32_tflops,
            Dtype::Bf16 | Dtype::F16 | Dtype::Int8 | Dtype::Int4 => self.bf16_tflops,
            Dtype::Fp8 => self.fp8_tflops.unwrap_or(self.bf16_tflops),
        };
        tflops * 1e12
    }

    /// Bytes a second to other GPUs of its domain, each way.
    pub fn link_bytes(&self) -> f64 {
        self.link_gb_per_second * 1e9
    }
}

/// A name that is no GPU's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no GPU {found:?} is known; there are {}", GPUS.iter().map(|gpu| gpu.name).collect::<Vec<_>>().join(", "))]
pub struct UnknownGpu {
    found: String,
}
