//! Kernels measured on other accelerators, to hold ours against: linear layers, causal prefill and decode attention on B200 and H200.
//!
//! Models: the shapes, the best measured time of each device, and the share of the device's own peak that this is. Leaves out: what the
//! devices do inside a kernel. The times are data in `devices/*.csv`, which name their source and licence; shares are computed here from
//! shape and time, by the same formulas for every device and for the chip. Invariant: a shape appears once per element type.
//!
#![doc = include_str!("devices.md")]

use std::fmt;

const GEMM: &str = include_str!("devices/gemm.csv");
const PREFILL: &str = include_str!("devices/prefill.csv");
const DECODE: &str = include_str!("devices/decode.csv");

/// What to say of the source wherever the times are shown.
pub const SOURCE: &str = "B200 and H200 SXM as measured by ai-dynamo/aiconfigurator (commit 095f58a51; TensorRT-LLM 1.3.0rc20, SGLang 0.5.14, \
     vLLM 0.24.0; Apache-2.0, (c) NVIDIA CORPORATION & AFFILIATES), the best of the frameworks for each shape";

/// A measured device and its dense peaks, as its maker states them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Device {
    pub name: &'static str,
    /// FLOP/s in BF16; twice that in FP8.
    bf16_flops: f64,
    /// FLOP/s in FP4, if it multiplies FP4.
    fp4_flops: Option<f64>,
    /// Bytes a second.
    pub hbm: f64,
}

/// The devices, in the order of [`Row::times`].
pub const DEVICES: [Device; 2] = [
    Device {
        name: "B200",
        bf16_flops: 2250e12,
        fp4_flops: Some(9000e12),
        hbm: 7.7e12,
    },
    Device {
        name: "H200",
        bf16_flops: 989e12,
        fp4_flops: None,
        hbm: 4.8e12,
    },
];

impl Device {
    /// Dense FLOP/s with operands of this type; none if the device does not multiply it.
    pub fn flops(&self, dtype: Element) -> Option<f64> {
        match dtype {
            Element::Bf16 => Some(self.bf16_flops),
            Element::Fp8 => Some(2.0 * self.bf16_flops),
            Element::Nvfp4 => self.fp4_flops,
        }
    }
}

/// The type of the elements that were measured. The source's `bfloat16` is [`Element::Bf16`], its `fp8` and `fp8_block` are
/// [`Element::Fp8`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    Bf16,
    Fp8,
    Nvfp4,
}

impl Element {
    /// The word in the files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Element::Bf16 => "bf16",
            Element::Fp8 => "fp8",
            Element::Nvfp4 => "nvfp4",
        }
    }

    /// Bytes of an element, its share of a block scale included: NVFP4 has a byte for 16.
    fn bytes(self) -> f64 {
        match self {
            Element::Bf16 => 2.0,
            Element::Fp8 => 1.0,
            Element::Nvfp4 => 0.5 + 1.0 / 16.0,
        }
    }
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// C[m,n] = A[m,k] B[k,n], C in BF16.
    Gemm,
    /// Causal attention over whole prompts.
    Prefill,
    /// Attention of one new token of each sequence.
    Decode,
}

impl Kind {
    /// All, in the order of tables.
    pub const ALL: [Kind; 3] = [Kind::Gemm, Kind::Prefill, Kind::Decode];

    /// The word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Gemm => "gemm",
            Kind::Prefill => "prefill",
            Kind::Decode => "decode",
        }
    }

    /// Names of the extents, in the order of the file's columns.
    pub fn extents(self) -> &'static [&'static str] {
        match self {
            Kind::Gemm => &["m", "n", "k"],
            Kind::Prefill => &["heads", "kv_heads", "head_dim", "seq", "batch"],
            Kind::Decode => &["heads", "kv_heads", "head_dim", "context", "batch"],
        }
    }

    fn file(self) -> &'static str {
        match self {
            Kind::Gemm => GEMM,
            Kind::Prefill => PREFILL,
            Kind::Decode => DECODE,
        }
    }
}

/// The best time of a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Time {
    pub time_s: f64,
    /// Recipe and framework, where the file names them.
    pub by: Option<&'static str>,
}

/// A shape that was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub kind: Kind,
    pub dtype: Element,
    /// In the order of [`Kind::extents`].
    pub extents: Vec<u64>,
    /// By [`DEVICES`]; none where the device was not measured.
    pub times: [Option<Time>; 2],
}

/// The resource of a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    Tensor,
    Hbm,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Resource::Tensor => "tensor",
            Resource::Hbm => "hbm",
        })
    }
}

/// How much of a peak a time reaches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    pub of: Resource,
    pub percent: f64,
}

impl Row {
    /// FLOP of its products, a multiply-add counting 2, where they are compared: 2 m n k, and 2 seq^2 head_dim for each head of a
    /// causal prefill, half of the square.
    pub fn flops(&self) -> Option<f64> {
        let e = |i: usize| self.extents[i] as f64;
        match self.kind {
            Kind::Gemm => Some(2.0 * e(0) * e(1) * e(2)),
            Kind::Prefill => Some(2.0 * e(3) * e(3) * e(2) * e(0) * e(4)),
            Kind::Decode => None,
        }
    }

    /// Bytes that must cross HBM, where they are compared: A and B with their scales and C in BF16, once each; K and V of a decode.
    pub fn bytes(&self) -> Option<f64> {
        let e = |i: usize| self.extents[i] as f64;
        match self.kind {
            Kind::Gemm => {
                Some(self.dtype.bytes() * (e(0) * e(2) + e(2) * e(1)) + 2.0 * e(0) * e(1))
            }
            Kind::Prefill => None,
            Kind::Decode => Some(self.dtype.bytes() * 2.0 * e(1) * e(2) * e(3) * e(4)),
        }
    }

    /// The share of its own peak that a device reaches with this time: that of the resource which takes the device longer, so the
    /// tensor peak where the shape is bound by arithmetic and the HBM peak where it is bound by memory.
    ///
    /// `flops` and `hbm`: peaks a second; no `flops` if the device does not multiply the type.
    pub fn share(&self, time_s: f64, flops: Option<f64>, hbm: f64) -> Option<Share> {
        let percent = |work: f64, peak: f64| 100.0 * work / peak / time_s;
        let tensor = self.flops().zip(flops).map(|(work, peak)| Share {
            of: Resource::Tensor,
            percent: percent(work, peak),
        });
        let hbm = self.bytes().map(|work| Share {
            of: Resource::Hbm,
            percent: percent(work, hbm),
        });
        match (tensor, hbm) {
            (Some(a), Some(b)) if a.percent < b.percent => Some(b),
            (tensor, hbm) => tensor.or(hbm),
        }
    }

    /// The share that a measured device reaches.
    pub fn device_share(&self, device: usize) -> Option<Share> {
        let time = self.times[device]?;
        let of = &DEVICES[device];
        self.share(time.time_s, of.flops(self.dtype), of.hbm)
    }
}

/// The measured shapes of a kind, in the order of the file.
pub fn rows(kind: Kind) -> Vec<Row> {
    let lines = kind.file().lines().filter(|l| !l.starts_with('#'));
    lines.skip(1).filter_map(|line| row(kind, line)).collect()
}

/// A line of a file of the crate; that all of them are rows is a test.
fn row(kind: Kind, line: &'static str) -> Option<Row> {
    let mut cells = line.split(',');
    let all = [Element::Bf16, Element::Fp8, Element::Nvfp4];
    let name = cells.next()?;
    let dtype = all.into_iter().find(|e| e.name() == name)?;
    let mut extents = Vec::new();
    for _ in kind.extents() {
        extents.push(cells.next()?.parse().ok()?);
    }
    let mut times = [None; 2];
    for time in &mut times {
        let text = cells.next()?;
        let by = match kind {
            Kind::Gemm => Some(cells.next()?).filter(|by| !by.is_empty()),
            Kind::Prefill | Kind::Decode => None,
        };
        if !text.is_empty() {
            let us: f64 = text.parse().ok()?;
            let time_s = us * 1e-6;
            *time = Some(Time { time_s, by });
        }
    }
    Some(Row {
        kind,
        dtype,
        extents,
        times,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_line_is_a_row_and_no_shape_comes_twice() {
        for (kind, want, both) in [
            (Kind::Gemm, 363, 242),
            (Kind::Prefill, 322, 98),
            (Kind::Decode, 400, 400),
        ] {
            let lines = kind.file().lines().filter(|l| !l.starts_with('#'));
            let rows = rows(kind);
            assert_eq!(rows.len(), lines.count() - 1, "{}", kind.name());
            assert_eq!(rows.len(), want, "{}", kind.name());
            let shapes: BTreeSet<_> = rows.iter().map(|r| (r.dtype, &r.extents)).collect();
            assert_eq!(shapes.len(), rows.len(), "{}", kind.name());
            let measured = rows.iter().filter(|r| r.times.iter().all(Option::is_some));
            assert_eq!(measured.count(), both, "{}", kind.name());
            for row in &rows {
                assert!(row.times.iter().any(Option::is_some), "{row:?}");
                for device in 0..DEVICES.len() {
                    let share = row.device_share(device);
                    assert_eq!(share.is_some(), row.times[device].is_some(), "{row:?}");
                    // More than a peak would be a wrong formula or a wrong row.
                    let percent = share.map_or(50.0, |s| s.percent);
                    assert!(percent > 0.0 && percent < 100.0, "{row:?} {percent}");
                }
            }
        }
    }

    #[test]
    fn shares_worked_by_hand() {
        let find = |kind, dtype, extents: &[u64]| {
            let found = rows(kind).into_iter();
            let mut found = found.filter(|r| r.dtype == dtype && r.extents == extents);
            found.next().unwrap()
        };
        let shown = |row: &Row, device: usize| {
            let share = row.device_share(device).unwrap();
            format!("{} {:.1}", share.of, share.percent)
        };
        // 29.4 MB in 7.126 us are 4,122 GB/s of 7,700; 16 x 2 x 7168 x 2048 FLOP would be 3 % of the tensor peak.
        let small = find(Kind::Gemm, Element::Bf16, &[1, 7168, 2048]);
        assert_eq!(shown(&small, 0), "hbm 53.5");
        assert_eq!(small.times[0].unwrap().by, Some("bf16/trtllm"));
        // 2 x 16384 x 7168 x 2048 FLOP.
        let large = find(Kind::Gemm, Element::Bf16, &[16384, 7168, 2048]);
        let time = large.times[0].unwrap().time_s;
        let want = 481_036_337_152.0 / time / 2250e12 * 100.0;
        assert_eq!(shown(&large, 0), format!("tensor {want:.1}"));
        // NVFP4 counts a scale byte for 16 elements: 10.24 MB in 6.039 us, 22.0 % of HBM.
        let fp4 = find(Kind::Gemm, Element::Nvfp4, &[128, 7168, 2048]);
        assert_eq!(shown(&fp4, 0), "hbm 22.0");
        assert_eq!(fp4.times[1], None);
        // 330.4 TFLOP/s of 2,250.
        let prefill = find(Kind::Prefill, Element::Bf16, &[32, 8, 64, 1024, 128]);
        assert_eq!(shown(&prefill, 0), "tensor 14.7");
        // 3,520 GB/s of 7,700.
        let decode = find(Kind::Decode, Element::Bf16, &[32, 8, 64, 32768, 1]);
        assert_eq!(shown(&decode, 0), "hbm 45.7");
    }
}
