//! Strategies for vector kernels: random instructions in random loops that stay inside two windows of the TSRAM.
//!
//! Models: every instruction of the vector processor, from its row of the instruction set, so that new rows take part
//! without a change here. Leaves out: addresses computed in scalar registers, since a random one is almost never inside.
//! Invariants: a kernel reads `WINDOW` bytes from its first argument and from its second, and writes only the latter; it
//! ends after at most [`MAX_STEPS`] instructions; it never traps.
//!
//! Arguments: `s1` the window that is read, `s2` the one that is read and written, `s3` a count for loops, 0 to 4.

use crate::isa::strategy::inst_of;
use crate::isa::{Dtype, FieldInfo, FieldKind, INFO, Inst, InstInfo};
use proptest::prelude::*;
use proptest::strategy::Union;

/// Bytes of each window.
pub const WINDOW: u64 = 4608;
/// Bytes between elements of strided accesses: 256 lanes stay inside the window.
const STRIDE: u64 = 16;
/// Loops with a count of their own run so often.
const COUNT: u64 = 2;
/// Most instructions that a kernel executes: loops nest twice, with at most four rounds each.
pub const MAX_STEPS: u64 = 1000;

/// A vector kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// What stands before `vret`.
    pub body: Vec<Item>,
}

/// An instruction or a loop of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// One instruction.
    Inst(Inst),
    /// A hardware loop.
    Loop {
        /// What counts it.
        count: Count,
        /// Its body.
        body: Vec<Item>,
    },
}

/// What counts a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// `s0`: the body is skipped.
    Never,
    /// Twice.
    Twice,
    /// `s3`, an argument.
    Argument,
}

impl Kernel {
    /// The kernel as a section of assembly.
    pub fn text(&self, name: &str) -> String {
        let mut out = format!(".kernel {name}\n    sli s12, {COUNT}\n    sli s13, {STRIDE}\n");
        let mut labels = 0;
        items(&self.body, &mut labels, &mut out);
        out.push_str("    vret\n");
        out
    }
}

fn items(body: &[Item], labels: &mut u32, out: &mut String) {
    for item in body {
        match item {
            Item::Inst(inst) => *out += &format!("    {inst}\n"),
            Item::Loop { count, body } => {
                let label = *labels;
                *labels += 1;
                let register = match count {
                    Count::Never => "s0",
                    Count::Twice => "s12",
                    Count::Argument => "s3",
                };
                *out += &format!("    loop {register}, end_{label}\n");
                items(body, labels, out);
                *out += &format!("end_{label}:\n");
            }
        }
    }
}

/// Random kernels of up to `size` items a level.
pub fn kernel(size: usize) -> impl Strategy<Value = Kernel> {
    let leaf = instruction().prop_map(Item::Inst).boxed();
    let nest = |inside: BoxedStrategy<Item>| {
        let count = prop_oneof![
            1 => Just(Count::Never),
            3 => Just(Count::Twice),
            3 => Just(Count::Argument)
        ];
        // A loop with nothing in it has no instruction to end at.
        let body = prop::collection::vec(inside.clone(), 1..=4);
        let repeat = (count, body).prop_map(|(count, body)| Item::Loop { count, body });
        prop_oneof![9 => inside, 1 => repeat].boxed()
    };
    let item = nest(nest(leaf));
    prop::collection::vec(item, 0..=size).prop_map(|body| Kernel { body })
}

/// One instruction of a vector kernel that cannot trap under the rules of this module.
pub fn instruction() -> impl Strategy<Value = Inst> {
    let infos = || INFO.iter().filter(|i| i.in_kernel());
    let of = |wanted: fn(&InstInfo) -> bool| {
        let chosen = infos()
            .filter(move |i| wanted(i))
            .map(|i| inst_of(i).prop_map(tame).boxed());
        Union::new(chosen)
    };
    prop_oneof![
        2 => of(|i| i.cost == "vload"),
        2 => of(|i| i.cost == "vstore"),
        9 => of(|i| !matches!(i.cost, "vload" | "vstore" | "loop") && i.name != "vret"),
    ]
}

/// The instruction with registers and immediates that keep the module's promises.
fn tame(inst: Inst) -> Inst {
    let info = inst.info();
    let word = inst.encode();
    let strided = info.fields.iter().any(|f| f.name == "ss");
    let dtype = |name: &str| {
        let field = info.fields.iter().find(|f| f.name == name)?;
        Dtype::from_code(field.raw(word) as u8)
    };
    let memory = matches!(info.cost, "vload" | "vstore");
    let quantiser = info.fields.iter().any(|f| f.name == "rule");
    let mut tamed = word;
    for f in info.fields {
        let raw = f.raw(word);
        let value = match (f.kind, f.name) {
            (FieldKind::SReg, "sd") => 4 + raw % 8,
            (FieldKind::SReg, "sa") if info.cost == "vstore" => 2,
            (FieldKind::SReg, "sa") if memory => 1 + raw % 2,
            (FieldKind::SReg, "ss") => 13,
            (FieldKind::Imm { .. }, "imm") if memory => {
                // 256 lanes; strided ones are STRIDE apart, others at most 4 bytes of 128.
                let extent = if strided { 256 * STRIDE } else { 512 };
                raw % (WINDOW - extent + 1)
            }
            // Only types of up to 16 bits have a second group.
            (_, "dg") if dtype("dd").is_some_and(|d| d.bits() == 32) => 0,
            (_, "sg") if dtype("ds").is_some_and(|d| d.bits() == 32) => 0,
            // The rule of NVFP4 knows one type.
            (FieldKind::Enum(e), "rule") if e.values[raw as usize] == "nvfp4" => {
                if quantiser && dtype("dd") != Some(Dtype::E2m1) {
                    0
                } else {
                    raw
                }
            }
            _ => raw,
        };
        tamed = with_field(tamed, f, value);
    }
    Inst::decode(tamed).unwrap_or(inst)
}

/// `word` with a field set to raw bits.
pub(super) fn with_field(word: u64, f: &FieldInfo, raw: u64) -> u64 {
    let mask = u64::MAX >> (64 - f.bits);
    word & !(mask << f.lo) | (raw & mask) << f.lo
}
