//! `isa list|show|doc`: the instruction set, from the data that also makes encoder, assembler and executor types.

use super::{CliError, Context};
use crate::isa::{
    FieldInfo, FieldKind, INFO, ISA_VERSION, InstInfo, UNIT_DOCS, Unit, text::mnemonic,
};
use crate::num::Dtype;
use clap::Subcommand;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Show the instruction set
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Every instruction with its unit, operands and summary
    List,
    /// One instruction in full
    Show {
        /// Its mnemonic, with or without suffixes
        name: String,
    },
    /// The reference in Markdown: all pages to stdout, or one file per instruction
    Doc {
        /// Directory for one file per instruction and an index
        #[arg(short, long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
}

pub fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    match &args.command {
        Command::List => list(context),
        Command::Show { name } => {
            let info = find(name)?;
            match context.json {
                true => context.print_json(json!({ "instruction": describe(info) })),
                false => context.print(&page(info)),
            }
        }
        Command::Doc { output: None } if context.json => list(context),
        Command::Doc { output: None } => context.print(&all_pages()),
        Command::Doc { output: Some(dir) } => {
            write_pages(dir)?;
            match context.json {
                true => context.print_json(json!({ "directory": dir, "pages": INFO.len() })),
                false => {
                    context.note(&format!("wrote {} pages to {}", INFO.len(), dir.display()));
                    Ok(())
                }
            }
        }
    }
}

fn find(name: &str) -> Result<&'static InstInfo, CliError> {
    if let Some((info, _)) = mnemonic(name) {
        return Ok(info);
    }
    let kin: Vec<&str> = INFO
        .iter()
        .map(|i| i.name)
        .filter(|n| n.starts_with(name) || name.starts_with(n))
        .collect();
    let hint = match kin.is_empty() {
        true => "; `isa list` lists them".to_owned(),
        false => format!("; near it: {}", kin.join(", ")),
    };
    Err(CliError::usage(format!(
        "no instruction is named `{name}`{hint}"
    )))
}

fn unit_name(unit: Unit) -> String {
    format!("{unit:?}").to_lowercase()
}

fn list(context: &Context) -> Result<(), CliError> {
    if context.json {
        let all: Vec<Value> = INFO.iter().map(describe).collect();
        let units: Vec<Value> = UNIT_DOCS
            .iter()
            .map(|(unit, doc)| json!({ "name": unit_name(*unit), "doc": doc }))
            .collect();
        return context.print_json(
            json!({ "isa_version": ISA_VERSION, "units": units, "instructions": all }),
        );
    }
    let width = INFO.iter().map(|i| i.syntax.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (unit, doc) in UNIT_DOCS {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{}: {doc}", unit_name(*unit));
        for info in INFO.iter().filter(|i| i.unit == *unit) {
            let _ = writeln!(out, "  {:width$}  {}", info.syntax, info.summary);
        }
        out.push('\n');
    }
    context.print(&out)
}

/// What a field holds, in a word or a list of names.
fn kind_text(field: &FieldInfo) -> String {
    match field.kind {
        FieldKind::Reg => "control register r0-r31".to_owned(),
        FieldKind::SReg => "scalar register s0-s15".to_owned(),
        FieldKind::VReg => "vector register v0-v31".to_owned(),
        FieldKind::PReg => "predicate register p0-p7".to_owned(),
        FieldKind::Pred => "governing predicate, written ?p1-?p7; p0 if left out".to_owned(),
        FieldKind::Dtype { .. } => format!("element type: {}", choices(field).join(", ")),
        FieldKind::Enum(info) => format!("{}: {}", info.doc, choices(field).join(", ")),
        FieldKind::Imm { .. } => {
            let (low, high) = field.range();
            format!("integer {low} to {high}")
        }
        FieldKind::Target => "label; stored as the distance in words".to_owned(),
        FieldKind::Kernel => "kernel name; stored as its number".to_owned(),
    }
}

/// The word for the kind in JSON.
fn kind_name(field: &FieldInfo) -> &'static str {
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

/// The names that may stand in a field of few values.
fn choices(field: &FieldInfo) -> Vec<&'static str> {
    match field.kind {
        FieldKind::Dtype { allowed } => Dtype::ALL
            .into_iter()
            .filter(|d| allowed >> d.code() & 1 == 1)
            .map(Dtype::name)
            .collect(),
        FieldKind::Enum(info) => info.values.to_vec(),
        _ => Vec::new(),
    }
}

fn describe(info: &InstInfo) -> Value {
    let operands: Vec<Value> = info
        .fields
        .iter()
        .map(|f| {
            let (min, max) = f.range();
            let mut operand =
                json!({ "name": f.name, "kind": kind_name(f), "lo": f.lo, "bits": f.bits });
            match choices(f) {
                values if !values.is_empty() => operand["values"] = json!(values),
                _ => {
                    operand["min"] = json!(min);
                    operand["max"] = json!(max);
                }
            }
            operand
        })
        .collect();
    json!({
        "name": info.name,
        "unit": unit_name(info.unit),
        "opcode": info.opcode,
        "syntax": info.syntax,
        "operands": operands,
        "summary": info.summary,
        "semantics": info.semantics,
        "traps": info.traps,
        "cost": info.cost,
        "cycles": cycles(info.cost),
        "example": info.example,
    })
}

/// What an instruction of a cost class takes, in fields of the chip; the timing model's rules in words.
fn cycles(cost: &str) -> &'static str {
    match cost {
        "alu" | "div" | "branch" | "store" | "stage" => {
            "control.instruction cycles of its processor."
        }
        "load" => "control.load cycles of its processor.",
        "semaphore" => {
            "control.instruction cycles of its processor, and for `sem.wait` the wait. A post arrives after \
             control.tile_signal, control.cluster_signal or control.chip_signal cycles, by distance."
        }
        "dma" => {
            "queue.push cycles of the processor, longer while the queue holds queue.depth operations. The transfer: \
             dma.setup cycles, then requests of up to dma.request bytes, at most dma.outstanding in flight, at the rate of \
             the slowest port on the way (tsram.dma_read, tsram.dma_write, noc.tile_port, noc.cluster_port, csram.read, \
             csram.write, noc.stack_port, HBM), shared with other transfers; a cluster processor's own has cdma.* instead."
        }
        "net" => {
            "queue.push cycles of the processor. A transfer as of `dma`, over network.ports x network.port between chips."
        }
        "mm" => {
            "queue.push cycles of the processor. The array: ceil(m / ttu.block_rows) x ceil(n / ttu.block_cols) x \
             ceil(k / K) cycles, K being ttu.k_fp4, ttu.k_fp8 or ttu.k_bf16 for the wider operand; more when operand rows \
             meet in the TSRAM's banks. Results are ready ttu.latency cycles later."
        }
        "mm.load" => {
            "queue.push cycles of the processor. The preload port moves ttu.preload_port bytes a cycle beside the array."
        }
        "mm.store" => {
            "queue.push cycles of the processor. The result port moves ttu.result_port bytes of accumulators a cycle beside \
             the array, once the products before it are ready (ttu.latency)."
        }
        "vrun" => {
            "queue.push cycles of the processor. The kernel: tvp.launch cycles, then its instructions, issued in order."
        }
        "vload" => {
            "A load slot (tvp.load_slots a cycle) for ceil(bytes of a vector / tsram.tvp_load) cycles, longer if strided \
             elements meet in banks; the result after tvp.load_latency cycles."
        }
        "vstore" => {
            "A store slot (tvp.store_slots a cycle) for ceil(bytes of a vector / tsram.tvp_store) cycles, longer if strided \
             elements meet in banks."
        }
        "varith" => {
            "One arithmetic slot (tvp.arithmetic_slots a cycle); the result after tvp.arithmetic_latency cycles."
        }
        "vspecial" => {
            "The special slot (tvp.special_slots a cycle) for tvp.lanes_32 / tvp.special_per_cycle_32 cycles (_16 for types \
             of up to 16 bits); the result after tvp.special_latency cycles."
        }
        "vreduce" => {
            "One arithmetic slot; the result after 2 x log2(lanes) cycles, of tvp.lanes_32 or tvp.lanes_16."
        }
        "scalar" => "One scalar slot (tvp.scalar_slots a cycle); the result in the next cycle.",
        "loop" => {
            "One scalar slot (tvp.scalar_slots a cycle); turns of the loop cost nothing of their own."
        }
        _ => "",
    }
}

/// One page: the same headings for every instruction.
fn page(info: &InstInfo) -> String {
    let mut out = format!(
        "# `{}`\n\n{}.\n\nUnit: {}\n\n## Syntax\n\n```\n{}\n```\n\n",
        info.name,
        info.summary,
        unit_name(info.unit),
        info.syntax
    );
    let _ = writeln!(
        out,
        "## Encoding\n\n| bits | field | holds |\n|---|---|---|\n| 7:0 | opcode | {:#04x} |",
        info.opcode
    );
    for f in info.fields {
        let high = f.lo + f.bits - 1;
        let _ = writeln!(out, "| {high}:{} | `{}` | {} |", f.lo, f.name, kind_text(f));
    }
    let next = info.fields.iter().map(|f| f.lo + f.bits).max().unwrap_or(8);
    if next < 64 {
        let _ = writeln!(out, "| 63:{next} | reserved | zero |");
    }
    let _ = writeln!(
        out,
        "\n## Function\n\n{}.\n\n## Traps\n",
        info.semantics.trim_end_matches('.')
    );
    for trap in info.traps {
        let _ = writeln!(out, "- {trap}");
    }
    if info.traps.is_empty() {
        out.push_str("None.\n");
    }
    let _ = writeln!(
        out,
        "\n## Performance\n\nCost class `{}`. {}\n\nNames with a dot are fields of the chip (`chip show`).\n\n## Example\n\n```\n{}\n```",
        info.cost,
        cycles(info.cost),
        info.example
    );
    out
}

fn all_pages() -> String {
    let mut out = format!("# Instruction set, version {ISA_VERSION}\n");
    for (unit, doc) in UNIT_DOCS {
        let _ = write!(out, "\n# Unit {}\n\n{doc}\n", unit_name(*unit));
        for info in INFO.iter().filter(|i| i.unit == *unit) {
            let _ = write!(
                out,
                "\n{}",
                page(info)
                    .replace("\n## ", "\n### ")
                    .replacen("# ", "## ", 1)
            );
        }
    }
    out
}

fn write_pages(dir: &Path) -> Result<(), CliError> {
    std::fs::create_dir_all(dir).map_err(|e| CliError::io("create", dir, &e))?;
    let write = |name: &str, text: &str| {
        let path = dir.join(format!("{name}.md"));
        std::fs::write(&path, text).map_err(|e| CliError::io("write", &path, &e))
    };
    let mut index = format!("# Instruction set, version {ISA_VERSION}\n");
    for (unit, doc) in UNIT_DOCS {
        let _ = write!(index, "\n## {}\n\n{doc}\n\n", unit_name(*unit));
        for info in INFO.iter().filter(|i| i.unit == *unit) {
            let _ = writeln!(index, "- [`{0}`]({0}.md): {1}", info.name, info.summary);
            write(info.name, &page(info))?;
        }
    }
    write("index", &index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chip::{Chip, show};

    #[test]
    fn every_page_has_every_heading_and_field() {
        for info in INFO.iter() {
            let page = page(info);
            for heading in [
                "Syntax",
                "Encoding",
                "Function",
                "Traps",
                "Performance",
                "Example",
            ] {
                assert!(page.contains(&format!("\n## {heading}\n")), "{}", info.name);
            }
            assert!(!cycles(info.cost).is_empty(), "{}", info.cost);
            for field in info.fields {
                assert!(page.contains(&format!("`{}`", field.name)), "{}", info.name);
            }
        }
    }

    #[test]
    fn costs_name_fields_that_every_chip_has() {
        let shown = show::text(&Chip::preset("mini").unwrap());
        let keys: Vec<&str> = shown.lines().filter_map(|l| l.split(' ').next()).collect();
        for info in INFO.iter() {
            let text = cycles(info.cost).replace("dma.*", "");
            let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '_');
            for word in words
                .map(|w| w.trim_matches('.'))
                .filter(|w| w.contains('.'))
            {
                assert!(
                    word == "sem.wait" || keys.contains(&word),
                    "{}: {word}",
                    info.cost
                );
            }
        }
    }

    #[test]
    fn unknown_names_get_a_hint() {
        assert_eq!(find("mm.new.bf16").unwrap().name, "mm");
        let message = find("mm2").unwrap_err().to_string();
        assert!(message.contains("mm"), "{message}");
        assert_eq!(find("nonsense").unwrap_err().exit_code(), 2);
    }
}
