//! The element types: names, widths, codes. What a code *means* is in [`super::decode`]; scales of block formats are not element
//! types: they are in [`super::Format`].

use serde::{Deserialize, Serialize};

/// An element type of a tensor or vector operand. The discriminant is the type's code in instruction words.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// IEEE binary32.
    F32 = 0,
    /// bfloat16: 1/8/7, bias 127.
    Bf16 = 1,
    /// IEEE binary16: 1/5/10, bias 15.
    F16 = 2,
    /// OCP OFP8 E4M3 ("fn"): 1/4/3, bias 7, largest 448, no infinity, NaN = `S.1111.111`.
    E4m3 = 3,
    /// OCP OFP8 E5M2: 1/5/2, bias 15, largest 57344, IEEE infinities and NaNs.
    E5m2 = 4,
    /// OCP MX FP4 E2M1: 1/2/1, bias 1, largest 6, no infinity or NaN.
    E2m1 = 5,
    /// OCP MX FP6 E3M2: 1/3/2, bias 3, largest 28, no infinity or NaN.
    E3m2 = 6,
    /// OCP MX FP6 E2M3: 1/2/3, bias 1, largest 7.5, no infinity or NaN.
    E2m3 = 7,
    /// Two's complement, 32 bits.
    I32 = 8,
    /// Two's complement, 16 bits.
    I16 = 9,
    /// Two's complement, 8 bits.
    I8 = 10,
    /// Unsigned, 8 bits.
    U8 = 11,
}

impl Dtype {
    /// Every type, in the order of the codes.
    pub const ALL: [Dtype; 12] = [
        Dtype::F32,
        Dtype::Bf16,
        Dtype::F16,
        Dtype::E4m3,
        Dtype::E5m2,
        Dtype::E2m1,
        Dtype::E3m2,
        Dtype::E2m3,
        Dtype::I32,
        Dtype::I16,
        Dtype::I8,
        Dtype::U8,
    ];

    /// The code in instruction words, 0 to 11.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The type with this code, or `None` past the last one.
    pub const fn from_code(code: u8) -> Option<Dtype> {
        if (code as usize) < Self::ALL.len() {
            Some(Self::ALL[code as usize])
        } else {
            None
        }
    }

    /// The name used in assembly, JSON and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
            Dtype::F16 => "f16",
            Dtype::E4m3 => "e4m3",
            Dtype::E5m2 => "e5m2",
            Dtype::E2m1 => "e2m1",
            Dtype::E3m2 => "e3m2",
            Dtype::E2m3 => "e2m3",
            Dtype::I32 => "i32",
            Dtype::I16 => "i16",
            Dtype::I8 => "i8",
            Dtype::U8 => "u8",
        }
    }

    /// The type called `name`, exactly as [`Dtype::name`] writes it.
    pub fn parse(name: &str) -> Option<Dtype> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// Bits per element: 4, 6, 8, 16 or 32.
    pub const fn bits(self) -> u32 {
        match self {
            Dtype::F32 | Dtype::I32 => 32,
            Dtype::Bf16 | Dtype::F16 | Dtype::I16 => 16,
            Dtype::E4m3 | Dtype::E5m2 | Dtype::I8 | Dtype::U8 => 8,
            Dtype::E3m2 | Dtype::E2m3 => 6,
            Dtype::E2m1 => 4,
        }
    }

    /// Bytes that `elements` packed elements take, rounded up to a whole byte: FP4 two per byte, FP6 four in three bytes.
    /// Saturates at `u64::MAX`.
    pub const fn bytes_for(self, elements: u64) -> u64 {
        let bits = self.bits() as u64;
        // Eight elements take `bits` bytes whatever the type; the rest takes fewer than 32 bytes.
        (elements / 8)
            .saturating_mul(bits)
            .saturating_add((elements % 8 * bits).div_ceil(8))
    }

    /// Whether the type is a floating-point format.
    pub const fn is_float(self) -> bool {
        !matches!(self, Dtype::I32 | Dtype::I16 | Dtype::I8 | Dtype::U8)
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_round_trip() {
        for (index, dtype) in Dtype::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(dtype.code()), index);
            assert_eq!(Dtype::from_code(dtype.code()), Some(dtype));
            assert_eq!(Dtype::parse(dtype.name()), Some(dtype));
            let json = serde_json::to_string(&dtype).unwrap();
            assert_eq!(json, format!("\"{dtype}\""));
            assert_eq!(serde_json::from_str::<Dtype>(&json).unwrap(), dtype);
        }
        for code in 12..=u8::MAX {
            assert_eq!(Dtype::from_code(code), None);
        }
        for wrong in ["", "F32", "fp8", "e4m3 ", "i64"] {
            assert_eq!(Dtype::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn packed_sizes() {
        for (dtype, elements, bytes) in [
            (Dtype::E2m1, 0, 0),
            (Dtype::E2m1, 1, 1),
            (Dtype::E2m1, 2, 1),
            (Dtype::E2m1, 3, 2),
            (Dtype::E3m2, 1, 1),
            (Dtype::E3m2, 2, 2),
            (Dtype::E2m3, 3, 3),
            (Dtype::E2m3, 4, 3),
            (Dtype::E2m3, 5, 4),
            (Dtype::E2m3, 1024, 768),
            (Dtype::E4m3, 7, 7),
            (Dtype::Bf16, 7, 14),
            (Dtype::I32, 7, 28),
            (Dtype::E2m1, u64::MAX, 1 << 63),
            (Dtype::F32, u64::MAX, u64::MAX),
        ] {
            assert_eq!(dtype.bytes_for(elements), bytes, "{dtype} x {elements}");
        }
    }
}
