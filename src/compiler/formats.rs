//! Operand formats of a matrix product: the names of `--dtype`, and the element type and block scales behind each.
//!
//! Models: which type and scales A and B have. Leaves out: what the codes mean ([`crate::num`]) and how a program moves them.
//! Invariant: `--dtype`, JSON and a program's notes use the same names, those of [`MatmulType::name`].

use super::OpError;
use super::tiling::Side;
use crate::chip::cost;
use crate::isa::{self, ScaleType};
use crate::num::Dtype;
use serde::{Deserialize, Serialize};

/// Element types of an attention's `--dtype`.
pub const ATTENTION_DTYPES: &str = "bf16, fp8";
/// Formats of a matrix product's `--dtype`.
pub const MATMUL_DTYPES: &str = "bf16, fp8, fp8-e5m2, mxfp8, mxfp8-e5m2, mxfp6, mxfp6-e3m2, mxfp4, nvfp4, fp8xmxfp4, mxfp8xmxfp4";

/// Format of A or of B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    pub dtype: Dtype,
    /// Block scales along K.
    pub scale: ScaleType,
}

impl Operand {
    /// Bytes of `elements` packed elements.
    pub fn bytes(self, elements: u64) -> u64 {
        self.dtype.bytes_for(elements)
    }

    /// Elements that fill whole bytes: rows of a transfer are multiples of it.
    pub fn granule(self) -> u64 {
        match self.dtype.bits() {
            4 => 2,
            6 => 4,
            _ => 1,
        }
    }

    /// Bytes between rows of `elements` in HBM: a row is rounded up to the granule.
    pub fn row(self, elements: u64) -> u64 {
        self.bytes(elements.next_multiple_of(self.granule()))
    }

    /// Blocks of `k` elements along K that have a scale; 0 without scales.
    pub fn scale_blocks(self, k: u64) -> u64 {
        match cost::scale_block(self.scale) {
            0 => 0,
            block => k.div_ceil(block),
        }
    }

    /// Elements that share a scale; 0 without scales.
    pub fn scale_block(self) -> u64 {
        cost::scale_block(self.scale)
    }

    /// The name of the scales' type in assembly.
    pub fn scale_name(self) -> &'static str {
        // In encoding order.
        isa::SCALE_TYPE.values[self.scale as usize]
    }

    /// Whether there are block scales.
    pub fn scaled(self) -> bool {
        self.scale != ScaleType::None
    }
}

impl From<Operand> for cost::Operand {
    fn from(of: Operand) -> cost::Operand {
        cost::Operand::scaled(of.dtype, of.scale)
    }
}

/// Formats of A and B, by the name of `--dtype`. C is BF16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MatmulType {
    #[serde(rename = "bf16")]
    Bf16,
    /// E4M3 without scales.
    #[serde(rename = "fp8")]
    Fp8,
    #[serde(rename = "fp8-e5m2")]
    Fp8E5m2,
    #[serde(rename = "mxfp8")]
    Mxfp8,
    #[serde(rename = "mxfp8-e5m2")]
    Mxfp8E5m2,
    /// E2M3.
    #[serde(rename = "mxfp6")]
    Mxfp6,
    #[serde(rename = "mxfp6-e3m2")]
    Mxfp6E3m2,
    #[serde(rename = "mxfp4")]
    Mxfp4,
    #[serde(rename = "nvfp4")]
    Nvfp4,
    /// A: E4M3 activations without scales; B: MXFP4 weights.
    #[serde(rename = "fp8xmxfp4")]
    Fp8xMxfp4,
    /// A: MXFP8 activations (E4M3); B: MXFP4 weights.
    #[serde(rename = "mxfp8xmxfp4")]
    Mxfp8xMxfp4,
}

impl MatmulType {
    /// Every format, in the order of [`MATMUL_DTYPES`].
    pub const ALL: [MatmulType; 11] = [
        MatmulType::Bf16,
        MatmulType::Fp8,
        MatmulType::Fp8E5m2,
        MatmulType::Mxfp8,
        MatmulType::Mxfp8E5m2,
        MatmulType::Mxfp6,
        MatmulType::Mxfp6E3m2,
        MatmulType::Mxfp4,
        MatmulType::Nvfp4,
        MatmulType::Fp8xMxfp4,
        MatmulType::Mxfp8xMxfp4,
    ];

    /// The name on the command line, in JSON and in notes.
    pub fn name(self) -> &'static str {
        match self {
            MatmulType::Bf16 => "bf16",
            MatmulType::Fp8 => "fp8",
            MatmulType::Fp8E5m2 => "fp8-e5m2",
            MatmulType::Mxfp8 => "mxfp8",
            MatmulType::Mxfp8E5m2 => "mxfp8-e5m2",
            MatmulType::Mxfp6 => "mxfp6",
            MatmulType::Mxfp6E3m2 => "mxfp6-e3m2",
            MatmulType::Mxfp4 => "mxfp4",
            MatmulType::Nvfp4 => "nvfp4",
            MatmulType::Fp8xMxfp4 => "fp8xmxfp4",
            MatmulType::Mxfp8xMxfp4 => "mxfp8xmxfp4",
        }
    }

    /// The format of that name; `e4m3` is `fp8`.
    ///
    /// # Errors
    /// Another name; the message lists them all.
    pub fn parse(name: &str) -> Result<MatmulType, OpError> {
        let name = if name == "e4m3" { "fp8" } else { name };
        let found = Self::ALL.into_iter().find(|t| t.name() == name);
        found.ok_or_else(|| OpError::Dtype {
            name: name.to_owned(),
            allowed: MATMUL_DTYPES,
        })
    }

    /// The format of these operands.
    pub fn of(a: Operand, b: Operand) -> Option<MatmulType> {
        Self::ALL.into_iter().find(|t| t.operands() == (a, b))
    }

    /// Formats of A and of B.
    pub fn operands(self) -> (Operand, Operand) {
        let of = |dtype, scale| Operand { dtype, scale };
        let (plain, mx) = (|d| of(d, ScaleType::None), |d| of(d, ScaleType::E8m0));
        let both = |operand| (operand, operand);
        match self {
            MatmulType::Bf16 => both(plain(Dtype::Bf16)),
            MatmulType::Fp8 => both(plain(Dtype::E4m3)),
            MatmulType::Fp8E5m2 => both(plain(Dtype::E5m2)),
            MatmulType::Mxfp8 => both(mx(Dtype::E4m3)),
            MatmulType::Mxfp8E5m2 => both(mx(Dtype::E5m2)),
            MatmulType::Mxfp6 => both(mx(Dtype::E2m3)),
            MatmulType::Mxfp6E3m2 => both(mx(Dtype::E3m2)),
            MatmulType::Mxfp4 => both(mx(Dtype::E2m1)),
            MatmulType::Nvfp4 => both(of(Dtype::E2m1, ScaleType::Ue4m3)),
            MatmulType::Fp8xMxfp4 => (plain(Dtype::E4m3), mx(Dtype::E2m1)),
            MatmulType::Mxfp8xMxfp4 => (mx(Dtype::E4m3), mx(Dtype::E2m1)),
        }
    }

    /// Format of one operand.
    pub fn operand(self, side: Side) -> Operand {
        let (a, b) = self.operands();
        match side {
            Side::A => a,
            Side::B => b,
        }
    }

    /// Element types of A and B.
    pub fn dtypes(self) -> (Dtype, Dtype) {
        let (a, b) = self.operands();
        (a.dtype, b.dtype)
    }

    /// Whether A and B have an FP32 scale each, whose product multiplies the sums.
    pub fn tensor_scaled(self) -> bool {
        self == MatmulType::Nvfp4
    }
}

impl std::fmt::Display for MatmulType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// The operand type of an attention's `--dtype`: `bf16` or `fp8` (E4M3).
///
/// # Errors
/// Another name.
pub fn parse_attention_dtype(name: &str) -> Result<Dtype, OpError> {
    match name {
        "bf16" => Ok(Dtype::Bf16),
        "fp8" | "e4m3" => Ok(Dtype::E4m3),
        _ => Err(OpError::Dtype {
            name: name.to_owned(),
            allowed: ATTENTION_DTYPES,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_json_and_of_the_list() {
        for t in MatmulType::ALL {
            assert_eq!(MatmulType::parse(t.name()), Ok(t));
            let json = serde_json::to_string(&t).unwrap();
            assert_eq!(json, format!("\"{t}\""));
            assert_eq!(serde_json::from_str::<MatmulType>(&json).unwrap(), t);
        }
        let names: Vec<&str> = MatmulType::ALL.iter().map(|t| t.name()).collect();
        assert_eq!(names.join(", "), MATMUL_DTYPES);
        assert_eq!(
            MatmulType::parse("int3").unwrap_err().to_string(),
            format!("dtype `int3` is not one of {MATMUL_DTYPES}")
        );
        assert_eq!(
            parse_attention_dtype("mxfp4").unwrap_err().to_string(),
            "dtype `mxfp4` is not one of bf16, fp8"
        );
    }

    #[test]
    fn rows_and_blocks_are_rounded_up() {
        let (fp6, fp4) = (
            MatmulType::Mxfp6.operands().0,
            MatmulType::Nvfp4.operands().0,
        );
        assert_eq!([1, 4, 5].map(|n| fp6.row(n)), [3, 3, 6]);
        assert_eq!([1, 2, 65].map(|n| fp4.row(n)), [1, 1, 33]);
        assert_eq!([1, 16, 17].map(|k| fp4.scale_blocks(k)), [1, 1, 2]);
        assert_eq!([1, 32, 33].map(|k| fp6.scale_blocks(k)), [1, 1, 2]);
        assert_eq!(MatmulType::Bf16.operands().0.scale_blocks(99), 0);
    }
}
