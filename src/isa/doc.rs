//! The reference pages: one for each instruction, and what they share.
//!
//! Models: the layout of a page, the drawing of a word, operands in words, the frame that makes a program of an example
//! line, which instructions are related. Leaves out: what an instruction costs, which takes a chip: the caller brings that
//! text. Invariants: a page depends on [`INFO`] and that text only, so pages are the same in every run; the drawing covers
//! each of the 64 bits once.
//!
//! The headings are those of Tenstorrent's tt-isa-documentation (github.com/tenstorrent/tt-isa-documentation): summary,
//! syntax, encoding, functional model, performance; operands, traps, example and related instructions are added.

use super::{FieldInfo, FieldKind, INFO, ISA_VERSION, InstInfo, UNIT_DOCS, Unit};
use crate::num::Dtype;
use std::fmt::Write;

/// The conventions of the functional models, in Markdown.
pub const MODEL_LANGUAGE: &str = include_str!("../../isa/model.md");

/// Bits of a word that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Bits 7:0.
    Opcode(u8),
    /// An operand.
    Field(&'static str),
    /// Zero.
    Reserved,
}

/// The parts of the word: what, lowest bit, number of bits; from bit 0 up to bit 63.
pub fn layout(info: &InstInfo) -> Vec<(Part, u32, u32)> {
    let mut parts = vec![(Part::Opcode(info.opcode), 0, 8)];
    parts.extend(
        info.fields
            .iter()
            .map(|f| (Part::Field(f.name), f.lo, f.bits)),
    );
    let end = parts.iter().map(|(_, lo, bits)| lo + bits).max();
    let end = end.unwrap_or(0);
    if end < 64 {
        parts.push((Part::Reserved, end, 64 - end));
    }
    parts
}

/// Bits in a line of the drawing.
const LINE: u32 = 32;

/// The word as a box of two lines, bits 63:32 above 31:0, two columns a bit: bit b of a line is in column
/// `2 * (31 - b % 32) + 1`. A name that is wider than its box is a capital letter there and spelt out below.
pub fn drawing(info: &InstInfo) -> String {
    let parts = layout(info);
    let mut keys = Vec::new();
    let mut out = String::new();
    for line in [1, 0] {
        let (low, high) = (line * LINE, line * LINE + LINE - 1);
        let (mut tens, mut units) = (String::new(), String::new());
        for bit in (low..=high).rev() {
            // Tens only where they change, as in the drawings of RFCs.
            let ten = bit % 10 == 9 || bit == high;
            let _ = write!(
                tens,
                " {}",
                if ten {
                    (bit / 10).to_string()
                } else {
                    " ".to_owned()
                }
            );
            let _ = write!(units, " {}", bit % 10);
        }
        let (mut rule, mut names) = (String::from("+"), String::from("|"));
        for (part, lo, bits) in parts.iter().rev() {
            let (from, to) = ((*lo).max(low), (lo + bits).min(high + 1));
            if from >= to {
                continue;
            }
            let width = (2 * (to - from) - 1) as usize;
            let shown = (to - from < *bits).then_some((to - lo - 1, from - lo));
            let name = label(*part, shown);
            let name = match name.len() <= width {
                true => name,
                false => key(&mut keys, name),
            };
            let _ = write!(names, "{name:^width$}|");
            let _ = write!(rule, "{:-<width$}+", "");
        }
        let _ = write!(
            out,
            "{}\n{units}\n{rule}\n{names}\n{rule}\n",
            tens.trim_end()
        );
    }
    for (letter, name) in keys {
        let _ = writeln!(out, " {letter} = {name}");
    }
    out
}

/// The text of a part; with the range of its bits where a line shows a piece.
fn label(part: Part, shown: Option<(u32, u32)>) -> String {
    let name = match part {
        Part::Opcode(code) => return format!("{code:#04x}"),
        Part::Reserved => return "0".to_owned(),
        Part::Field(name) => name,
    };
    match shown {
        None => name.to_owned(),
        Some((high, low)) if high == low => format!("{name}[{high}]"),
        Some((high, low)) => format!("{name}[{high}:{low}]"),
    }
}

/// The letter that stands for a name in the drawing.
fn key(keys: &mut Vec<(char, String)>, name: String) -> String {
    // A word has room for fewer narrow fields than there are letters.
    let letter = char::from(b'A' + (keys.len() % 26) as u8);
    keys.push((letter, name));
    letter.to_string()
}

/// The word for the kind in JSON.
pub fn kind_name(field: &FieldInfo) -> &'static str {
    match field.kind {
        FieldKind::Reg => "reg",
        FieldKind::SReg => "sreg",
        FieldKind::VReg => "vreg",
        FieldKind::PReg => "preg",
        FieldKind::Pred => "pred",
        FieldKind::Dtype { .. } => "dtype",
        FieldKind::Enum(_) => "enum",
        FieldKind::Imm { .. } => "imm",
        FieldKind::Target => "target",
        FieldKind::Kernel => "kernel",
    }
}

/// The names that may stand in a field of few values, with their codes.
pub fn choices(field: &FieldInfo) -> Vec<(u64, &'static str)> {
    match field.kind {
        FieldKind::Dtype { allowed } => Dtype::ALL
            .into_iter()
            .filter(|d| allowed >> d.code() & 1 == 1)
            .map(|d| (u64::from(d.code()), d.name()))
            .collect(),
        FieldKind::Enum(info) => (0..).zip(info.values.iter().copied()).collect(),
        _ => Vec::new(),
    }
}

/// What a field may hold.
fn values(field: &FieldInfo) -> String {
    let (low, high) = field.range();
    // Results are called so in every row.
    let written = matches!(field.name, "rd" | "sd" | "vd" | "vs" | "pd");
    match field.kind {
        FieldKind::Reg if written => {
            "r0 to r31: a control register, written; r0 stays 0".to_owned()
        }
        FieldKind::SReg if written => {
            "s0 to s15: a scalar register, written; s0 stays 0".to_owned()
        }
        FieldKind::VReg if written => "v0 to v31: a vector register, written".to_owned(),
        FieldKind::PReg if written => {
            "p0 to p7: a predicate, written; p0 stays all lanes on".to_owned()
        }
        FieldKind::Reg => {
            "r0 to r31: a control register, whose 64 bits are read; r0 is 0".to_owned()
        }
        FieldKind::SReg => {
            "s0 to s15: a scalar register, whose 64 bits are read; s0 is 0".to_owned()
        }
        FieldKind::VReg => "v0 to v31: a vector register, read".to_owned(),
        FieldKind::PReg => "p0 to p7: a predicate, read; p0 is all lanes on".to_owned(),
        FieldKind::Pred => {
            "`?p1` to `?p7` after the operands; p0, all lanes, if left out".to_owned()
        }
        FieldKind::Dtype { .. } | FieldKind::Enum(_) => {
            let names = choices(field).into_iter();
            let names: Vec<String> = names
                .map(|(code, name)| format!("{name} = {code}"))
                .collect();
            names.join(", ")
        }
        FieldKind::Imm { signed: true } => format!("{low} to {high}, two's complement"),
        FieldKind::Imm { signed: false } => format!("{low} to {high}"),
        FieldKind::Target => {
            format!("a label; the field holds its distance in words, {low} to {high}")
        }
        FieldKind::Kernel => {
            format!("a kernel's name; the field holds its number, {low} to {high}")
        }
    }
}

/// Lines that give a value to a register that an example reads, in control code and in kernels.
const CONTROL_SETUP: [(&str, &str); 2] = [("r2", "li r2, 100"), ("r3", "li r3, 7")];
const KERNEL_SETUP: [(&str, &str); 5] = [
    ("s2", "sli s2, 100"),
    ("s3", "sli s3, 7"),
    ("v2", "vld.f32 v2, 0(s1)"),
    ("v3", "vld.f32 v3, 512(s1)"),
    ("v4", "vld.f32 v4, 1024(s1)"),
];

/// A complete program with the instruction, which assembles and, but for `trap`, runs to its end on any chip: that of the
/// row, or its example between lines that load the registers it reads and store what it gives.
pub fn program(info: &InstInfo) -> String {
    if !info.program.is_empty() {
        return info.program.trim_end().to_owned();
    }
    let operands = info.example.split_once(' ').map_or("", |(_, rest)| rest);
    let words: Vec<&str> = operands
        .split(|c: char| !c.is_ascii_alphanumeric())
        .collect();
    let lines = |setup: &[(&str, &'static str)]| -> String {
        let needed = setup
            .iter()
            .filter(|(register, _)| words.contains(register));
        needed.map(|(_, line)| format!("    {line}\n")).collect()
    };
    if !info.in_kernel() {
        return format!(
            ".tile\n{}    {}\n    halt",
            lines(&CONTROL_SETUP),
            info.example
        );
    }
    let result = match words.contains(&"v1") {
        true => "    sli s4, Y\n    vst.f32 v1, 0(s4)\n",
        false => "",
    };
    format!(
        ".tensor X, tsram, f32, [384], payload, iota\n.tensor Y, tsram, f32, [128], payload\n.kernel k\n{}    {}\n{result}    vret\n\
         .tile\n    li r8, X\n    vrun k, r8, 1               # s1 = X\n    halt",
        lines(&KERNEL_SETUP),
        info.example,
    )
}

/// Related instructions in the order of [`INFO`]: those that a `see` ties to it, neighbours (the same unit, cost class and
/// upper five bits of the opcode), and those of the same stem (`add` and `addi`, `mm` and `mm.load`).
pub fn related(info: &InstInfo) -> Vec<&'static InstInfo> {
    // Instructions on predicates stand among those on vectors.
    let family = |i: &InstInfo| (i.unit == Unit::Tvp).then(|| i.name.as_bytes()[0]);
    let place = |i: &InstInfo| (i.unit, i.cost, i.opcode >> 3, family(i));
    let stem = |long: &str, short: &str| {
        let rest = long.strip_prefix(short);
        rest.is_some_and(|rest| {
            rest == "i" || rest == "u" || rest == "s" || rest == "b" || rest.starts_with('.')
        })
    };
    INFO.iter()
        .filter(|other| other.op != info.op)
        .filter(|other| {
            place(other) == place(info)
                || stem(other.name, info.name)
                || stem(info.name, other.name)
                || info.see.contains(&other.name)
                || other.see.contains(&info.name)
        })
        .collect()
}

/// The name of a unit in pages and JSON.
pub fn unit_name(unit: Unit) -> String {
    format!("{unit:?}").to_lowercase()
}

/// Which processor runs the instruction, or which queue its operation goes to.
fn runs_on(unit: Unit) -> &'static str {
    match unit {
        Unit::Control | Unit::Semaphore => "a control processor",
        Unit::Dma => "a control processor; transfers run in the DMA of its unit",
        Unit::Ttu => "the control processor of a tile; operations run in its tensor unit (TTU)",
        Unit::Launch => {
            "the control processor of a tile; the kernel runs in its vector processor (TVP)"
        }
        Unit::Net => "a control processor; operations run in the network queue of its unit",
        Unit::Tvp => "the vector processor (TVP) of a tile, in a kernel",
    }
}

/// The page of an instruction in Markdown. `performance` is the text under that heading.
pub fn page(info: &InstInfo, performance: &str) -> String {
    let mut out = format!(
        "# `{}` ({})\n\n**Summary:** {}.\n\n**Unit:** {}; runs on {}.\n\n## Syntax\n\n```\n{}{}\n```\n\n",
        info.name,
        title(info.summary),
        info.summary,
        unit_name(info.unit),
        runs_on(info.unit),
        info.syntax,
        info.parts().predicate.map_or("", |_| " [?p]")
    );
    let _ = write!(
        out,
        "## Encoding\n\n```\n{}```\n\n| bits | field | holds |\n|---|---|---|\n",
        drawing(info)
    );
    for (part, lo, bits) in layout(info).into_iter().rev() {
        let range = match bits {
            1 => lo.to_string(),
            _ => format!("{}:{lo}", lo + bits - 1),
        };
        let _ = match part {
            Part::Opcode(code) => writeln!(out, "| {range} | opcode | {code:#04x} |"),
            Part::Reserved => writeln!(
                out,
                "| {range} | reserved | zero; anything else does not decode |"
            ),
            Part::Field(name) => writeln!(out, "| {range} | `{name}` | {} |", meaning(info, name)),
        };
    }
    out.push_str("\n## Operands\n\n");
    match info.fields {
        [] => out.push_str("None.\n"),
        fields => {
            out.push_str("| operand | kind | means | may be |\n|---|---|---|---|\n");
            for f in fields {
                let kind = kind_name(f);
                let _ = writeln!(
                    out,
                    "| `{}` | {kind} | {} | {} |",
                    f.name,
                    f.meaning,
                    values(f)
                );
            }
        }
    }
    let _ = write!(
        out,
        "\n## Functional model\n\n{}.\n\n```rust\n{}\n```\n\nThe [index](index.md#the-functional-models) tells the language of the model.\n\n## Traps\n\n",
        info.semantics.trim_end_matches('.'),
        info.model.trim_end()
    );
    for trap in info.traps {
        let _ = writeln!(out, "- {trap}");
    }
    if info.traps.is_empty() {
        out.push_str("None.\n");
    }
    let _ = write!(
        out,
        "\n## Example\n\n```\n{}\n```\n\n## Performance\n\n{performance}\n\n## Related instructions\n\n",
        program(info)
    );
    let names = related(info).into_iter();
    let links: Vec<String> = names.map(|i| format!("[`{0}`]({0}.md)", i.name)).collect();
    let _ = writeln!(out, "{}.", links.join(", "));
    out
}

/// The first clause of a summary, for the title.
fn title(summary: &str) -> &str {
    let text = summary.strip_prefix("clause: ").unwrap_or(summary);
    let ends = ["; ", ", ", ": "]
        .into_iter()
        .filter_map(|mark| text.find(mark));
    &text[..ends.min().unwrap_or(text.len())]
}

fn meaning(info: &InstInfo, name: &str) -> &'static str {
    let field = info.fields.iter().find(|f| f.name == name);
    field.map_or("", |f| f.meaning)
}

/// The index: the units with their instructions, and the language of the models.
pub fn index() -> String {
    let mut out = format!(
        "# Instruction set, version {ISA_VERSION}\n\n{} instructions. A word has 64 bits: the opcode in bits 7:0, then the operands, each \
         at the next free bit; the bits left over are zero. Any other word is no instruction, and is refused when a program is loaded.\n",
        INFO.len()
    );
    for (unit, doc) in UNIT_DOCS {
        let _ = write!(out, "\n## {}\n\n{doc}\n\n", unit_name(*unit));
        for info in INFO.iter().filter(|i| i.unit == *unit) {
            let _ = writeln!(out, "- [`{0}`]({0}.md): {1}", info.name, info.summary);
        }
    }
    let _ = write!(out, "\n## The functional models\n\n{MODEL_LANGUAGE}");
    out
}

#[cfg(test)]
#[path = "doc_tests.rs"]
mod tests;
