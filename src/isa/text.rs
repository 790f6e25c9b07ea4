//! The text form of instructions, driven by the syntax templates of the ISA data.
//!
//! Models: how a template splits into suffixes (`mm.new.bf16`), operands and the trailing predicate, and how an
//! instruction prints. Leaves out: lexing and expressions, which are the assembler's ([`crate::asm`]); it reads operands in
//! the order [`Syntax`] gives. Invariant: printing then assembling gives the same word.

use super::image::Image;
use super::{FieldInfo, FieldKind, INFO, Inst, InstInfo};
use std::fmt::Write;
use std::sync::OnceLock;

/// One operand as the template writes it.
#[derive(Clone, Copy, Debug)]
pub enum OperandSyntax {
    /// `{field}`
    Field(&'static FieldInfo),
    /// `{offset}({base})`; the base may be left out when it is register 0.
    Indexed {
        /// The immediate before the parenthesis.
        offset: &'static FieldInfo,
        /// The register inside it.
        base: &'static FieldInfo,
    },
}

/// A syntax template, taken apart.
#[derive(Debug)]
pub struct Syntax {
    /// Fields written as suffixes of the mnemonic, in order.
    pub suffixes: Vec<&'static FieldInfo>,
    /// Comma-separated operands, in order.
    pub operands: Vec<OperandSyntax>,
    /// The governing predicate, written last as `?pN`.
    pub predicate: Option<&'static FieldInfo>,
}

impl InstInfo {
    /// The template of this instruction, taken apart once.
    pub fn parts(&self) -> &'static Syntax {
        static ALL: OnceLock<Vec<Syntax>> = OnceLock::new();
        &ALL.get_or_init(|| INFO.iter().map(split).collect())[self.op as usize]
    }

    fn field(&'static self, name: &str) -> &'static FieldInfo {
        self.fields
            .iter()
            .find(|f| f.name == name)
            .expect("the build script checks that the syntax names fields")
    }
}

fn split(info: &'static InstInfo) -> Syntax {
    let (mnemonic, operands) = info.syntax.split_once(' ').unwrap_or((info.syntax, ""));
    let strip = |text: &str| text.trim_matches(['{', '}']).to_owned();
    let suffixes = mnemonic[info.name.len()..]
        .split('.')
        .filter(|s| !s.is_empty())
        .map(|s| info.field(&strip(s)))
        .collect();
    let operands = operands
        .split(", ")
        .filter(|o| !o.is_empty())
        .map(|o| match o.split_once('(') {
            Some((offset, base)) => OperandSyntax::Indexed {
                offset: info.field(&strip(offset)),
                base: info.field(&strip(base.trim_end_matches(')'))),
            },
            None => OperandSyntax::Field(info.field(&strip(o))),
        })
        .collect();
    let predicate = info
        .fields
        .iter()
        .find(|f| matches!(f.kind, FieldKind::Pred));
    Syntax {
        suffixes,
        operands,
        predicate,
    }
}

/// The instruction of a mnemonic with suffixes, and the suffixes: the longest name that is a prefix wins.
pub fn mnemonic(text: &str) -> Option<(&'static InstInfo, Vec<&str>)> {
    INFO.iter()
        .filter_map(|info| {
            let rest = text.strip_prefix(info.name)?;
            let suffixes = match rest.strip_prefix('.') {
                Some(rest) => rest.split('.').collect(),
                None if rest.is_empty() => Vec::new(),
                None => return None,
            };
            Some((info, suffixes))
        })
        .max_by_key(|(info, _)| info.name.len())
}

/// Names that the printer asks for instead of bare numbers.
pub trait Names {
    /// The label a branch target stands for; `offset` counts words from the instruction.
    fn target(&self, offset: i64) -> String;
    /// The name of a kernel.
    fn kernel(&self, index: i64) -> String;
}

/// Bare numbers: targets as signed distances, kernels by index.
pub struct PlainNames;

impl Names for PlainNames {
    fn target(&self, offset: i64) -> String {
        offset.to_string()
    }

    fn kernel(&self, index: i64) -> String {
        index.to_string()
    }
}

/// Kernels by their names in a program, targets as signed distances: for messages and listings.
pub struct ProgramNames<'a>(pub &'a Image);

impl Names for ProgramNames<'_> {
    fn target(&self, offset: i64) -> String {
        format!("{offset:+}")
    }

    fn kernel(&self, index: i64) -> String {
        let kernel = usize::try_from(index)
            .ok()
            .and_then(|i| self.0.kernels.get(i));
        kernel.map_or_else(|| index.to_string(), |k| k.name.clone())
    }
}

/// The text of one field's value.
fn value(info: &FieldInfo, word: u64, names: &dyn Names) -> String {
    let v = info.value(word);
    match info.kind {
        FieldKind::Reg => format!("r{v}"),
        FieldKind::SReg => format!("s{v}"),
        FieldKind::VReg => format!("v{v}"),
        FieldKind::PReg | FieldKind::Pred => format!("p{v}"),
        FieldKind::Dtype { .. } => {
            super::Dtype::from_code(v as u8).map_or_else(|| v.to_string(), |d| d.name().to_owned())
        }
        FieldKind::Enum(e) => e.values[v as usize].to_owned(),
        FieldKind::Imm { .. } => v.to_string(),
        FieldKind::Target => names.target(v),
        FieldKind::Kernel => names.kernel(v),
    }
}

/// The instruction as assembly text.
pub fn print(inst: &Inst, names: &dyn Names) -> String {
    let (info, word) = (inst.info(), inst.encode());
    let parts = info.parts();
    let mut text = info.name.to_owned();
    for f in &parts.suffixes {
        let _ = write!(text, ".{}", value(f, word, names));
    }
    for (i, operand) in parts.operands.iter().enumerate() {
        text.push_str(if i == 0 { " " } else { ", " });
        match operand {
            OperandSyntax::Field(f) => text.push_str(&value(f, word, names)),
            OperandSyntax::Indexed { offset, base } => {
                text.push_str(&value(offset, word, names));
                if base.raw(word) != 0 {
                    let _ = write!(text, "({})", value(base, word, names));
                }
            }
        }
    }
    if let Some(p) = parts.predicate.filter(|p| p.raw(word) != 0) {
        let _ = write!(text, " ?{}", value(p, word, names));
    }
    text
}
