//! The instruction set: types generated from `isa/*.toml`, and the program image.
//!
//! Models: the 64-bit instruction words of control code, macro-instructions and vector kernels, their text form and their
//! metadata. Leaves out: what instructions do ([`crate::machine`]) and what they cost ([`crate::chip`], timing).
//! Invariants: decoding is total (any word is an instruction or a named error) and exact (`encode(decode(w)) == w`);
//! printing and parsing go through the one table [`INFO`], so no instruction has text of its own.
//! Who may call it: everything above `num`.

pub mod doc;
pub mod image;
#[cfg(any(test, feature = "testing"))]
pub mod strategy;
pub mod text;

pub use crate::num::Dtype;

/// The version of the instruction set; object files of another version are refused.
pub const ISA_VERSION: u32 = 1;

macro_rules! register {
    ($name:ident, $prefix:literal, $count:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u8);

        impl $name {
            /// How many there are.
            pub const COUNT: usize = $count;

            /// The register's number as an index.
            pub fn index(self) -> usize {
                usize::from(self.0)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

register!(
    Reg,
    "r",
    32,
    "A 64-bit register of a control processor; r0 reads as zero."
);
register!(
    SReg,
    "s",
    16,
    "A 64-bit scalar register of a vector kernel; s0 reads as zero."
);
register!(VReg, "v", 32, "A vector register of a vector kernel.");
register!(
    PReg,
    "p",
    8,
    "A predicate register of a vector kernel; p0 reads as all lanes on."
);

/// An enumerated field's type: its values in encoding order.
#[derive(Debug)]
pub struct EnumInfo {
    /// Name in `isa/enums.toml`.
    pub name: &'static str,
    /// What it selects.
    pub doc: &'static str,
    /// The values' names, by code.
    pub values: &'static [&'static str],
}

/// What a field of an instruction word holds.
#[derive(Clone, Copy, Debug)]
pub enum FieldKind {
    /// A control register.
    Reg,
    /// A scalar register of a kernel.
    SReg,
    /// A vector register.
    VReg,
    /// A predicate register, as an operand.
    PReg,
    /// The governing predicate, printed as a trailing `?pN` unless p0.
    Pred,
    /// An element type; bit `code` of `allowed` tells whether it may stand here.
    Dtype {
        /// Set of allowed codes.
        allowed: u16,
    },
    /// An enumerated value.
    Enum(&'static EnumInfo),
    /// An integer.
    Imm {
        /// Two's complement if set.
        signed: bool,
    },
    /// A branch target: signed distance in words from this instruction.
    Target,
    /// A vector kernel's number.
    Kernel,
}

/// Name, kind and place of a field.
#[derive(Clone, Copy, Debug)]
pub struct FieldInfo {
    /// Name, as the syntax mentions it.
    pub name: &'static str,
    /// What it holds.
    pub kind: FieldKind,
    /// Lowest bit.
    pub lo: u32,
    /// Width in bits.
    pub bits: u32,
    /// What the instruction uses it for.
    pub meaning: &'static str,
}

impl FieldInfo {
    /// The field's raw bits in `word`.
    pub fn raw(&self, word: u64) -> u64 {
        (word >> self.lo) & (u64::MAX >> (64 - self.bits))
    }

    /// The field's value in `word`, sign-extended where it is signed.
    pub fn value(&self, word: u64) -> i64 {
        let raw = self.raw(word);
        match self.kind {
            FieldKind::Imm { signed: true } | FieldKind::Target => {
                let unused = 64 - self.bits;
                ((raw << unused) as i64) >> unused
            }
            _ => raw as i64,
        }
    }

    /// Smallest and largest value that fits.
    pub fn range(&self) -> (i64, i64) {
        match self.kind {
            FieldKind::Imm { signed: true } | FieldKind::Target => {
                (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1)
            }
            FieldKind::Enum(info) => (0, info.values.len() as i64 - 1),
            _ => (0, (1 << self.bits) - 1),
        }
    }
}

/// Everything the ISA data says of an instruction.
#[derive(Debug)]
pub struct InstInfo {
    /// The instruction.
    pub op: Op,
    /// Mnemonic without type suffixes.
    pub name: &'static str,
    /// Bits 7:0 of the word.
    pub opcode: u8,
    /// The unit whose file declares it.
    pub unit: Unit,
    /// Syntax template: `{field}` stands for a field's text.
    pub syntax: &'static str,
    /// Fields from bit 8 up.
    pub fields: &'static [FieldInfo],
    /// Cost class; its cycles are in the chip description.
    pub cost: &'static str,
    /// One line.
    pub summary: &'static str,
    /// What it does.
    pub semantics: &'static str,
    /// The functional model, in the language of [`doc::MODEL_LANGUAGE`].
    pub model: &'static str,
    /// What makes it trap.
    pub traps: &'static [&'static str],
    /// A line that assembles.
    pub example: &'static str,
    /// A complete program with the instruction; empty: [`doc::program`] puts `example` into its unit's frame.
    pub program: &'static str,
    /// Related instructions that neither opcode nor name tell.
    pub see: &'static [&'static str],
}

impl InstInfo {
    /// The instruction of that exact mnemonic.
    pub fn by_name(name: &str) -> Option<&'static InstInfo> {
        INFO.iter().find(|i| i.name == name)
    }

    /// Whether it stands in vector kernels; all others stand in control programs.
    pub fn in_kernel(&self) -> bool {
        self.unit == Unit::Tvp
    }
}

impl Op {
    /// The instruction's metadata.
    pub fn info(self) -> &'static InstInfo {
        &INFO[self as usize]
    }
}

impl Inst {
    /// The instruction's metadata.
    pub fn info(&self) -> &'static InstInfo {
        self.op().info()
    }
}

impl std::fmt::Display for Inst {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&text::print(self, &text::PlainNames))
    }
}

/// A word that is no instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No instruction has these low eight bits.
    #[error("word {word:#018x}: no instruction has opcode {:#04x}", word & 0xff)]
    Opcode {
        /// The word.
        word: u64,
    },
    /// A bit outside every field is set.
    #[error("word {word:#018x}: `{name}` has reserved bits {bits:#x} set")]
    Reserved {
        /// The instruction.
        name: &'static str,
        /// The word.
        word: u64,
        /// The reserved bits that are set.
        bits: u64,
    },
    /// A field's value means nothing.
    #[error("`{name}`: field `{field}` cannot hold {value}")]
    Field {
        /// The instruction.
        name: &'static str,
        /// The field.
        field: &'static str,
        /// Its raw value.
        value: u64,
    },
}

fn reserved(name: &'static str, word: u64, used: u64) -> Result<(), DecodeError> {
    match word & !used {
        0 => Ok(()),
        bits => Err(DecodeError::Reserved { name, word, bits }),
    }
}

fn dtype_field(
    name: &'static str,
    field: &'static str,
    raw: u64,
    allowed: u16,
) -> Result<Dtype, DecodeError> {
    Dtype::from_code(raw as u8)
        .filter(|_| allowed & (1 << raw) != 0)
        .ok_or(DecodeError::Field {
            name,
            field,
            value: raw,
        })
}

include!(concat!(env!("OUT_DIR"), "/isa.rs"));
