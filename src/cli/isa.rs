//! `isa list|show|doc`: the instruction set, from the data that also makes encoder, assembler and executor types.

use super::{CliError, Context, performance};
use crate::asm::PSEUDO;
use crate::chip::Chip;
use crate::isa::doc::{self, choices, kind_name, unit_name};
use crate::isa::{INFO, ISA_VERSION, InstInfo, UNIT_DOCS, text::mnemonic};
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
                false => context.print(&page(info, &context.chip()?)),
            }
        }
        Command::Doc { output: None } if context.json => list(context),
        Command::Doc { output: None } => context.print(&all_pages(&context.chip()?)),
        Command::Doc { output: Some(dir) } => {
            write_pages(dir, &context.chip()?)?;
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
        .filter(|n| !name.is_empty() && (n.starts_with(name) || name.starts_with(n)))
        .collect();
    let pseudo = PSEUDO.iter().find(|p| p.0 == name);
    let hint = match (pseudo, kin.is_empty()) {
        (Some((_, _, expansion, _)), _) => {
            format!("; the assembler writes `{expansion}` for this pseudo-instruction")
        }
        (None, true) => "; `isa list` lists them".to_owned(),
        (None, false) => format!("; near it: {}", kin.join(", ")),
    };
    Err(CliError::usage(format!(
        "no instruction is named `{name}`{hint}"
    )))
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

fn describe(info: &InstInfo) -> Value {
    let operands: Vec<Value> = info
        .fields
        .iter()
        .map(|f| {
            let (min, max) = f.range();
            let mut operand =
                json!({ "name": f.name, "kind": kind_name(f), "lo": f.lo, "bits": f.bits, "meaning": f.meaning });
            match choices(f) {
                values if !values.is_empty() => {
                    let names: Vec<&str> = values.into_iter().map(|(_, name)| name).collect();
                    operand["values"] = json!(names);
                }
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
        "model": info.model,
        "traps": info.traps,
        "cost": info.cost,
        "cycles": performance::class(info.cost).map(|c| c.rule),
        "example": info.example,
        "program": doc::program(info),
        "related": doc::related(info).iter().map(|i| i.name).collect::<Vec<_>>(),
    })
}

/// The page of an instruction, with its cost on a chip.
fn page(info: &InstInfo, chip: &Chip) -> String {
    doc::page(info, &performance::text(info.cost, chip))
}

fn all_pages(chip: &Chip) -> String {
    let mut out = doc::index();
    for info in INFO.iter() {
        let page = page(info, chip);
        let _ = write!(
            out,
            "\n{}",
            page.replace("\n## ", "\n### ").replacen("# ", "## ", 1)
        );
    }
    out
}

fn write_pages(dir: &Path, chip: &Chip) -> Result<(), CliError> {
    std::fs::create_dir_all(dir).map_err(|e| CliError::io("create", dir, &e))?;
    let write = |name: &str, text: &str| {
        let path = dir.join(format!("{name}.md"));
        std::fs::write(&path, text).map_err(|e| CliError::io("write", &path, &e))
    };
    for info in INFO.iter() {
        write(info.name, &page(info, chip))?;
    }
    write("index", &doc::index())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_get_a_hint() {
        assert_eq!(find("mm.new.bf16").unwrap().name, "mm");
        let message = find("mm2").unwrap_err().to_string();
        assert!(message.contains("mm"), "{message}");
        assert_eq!(find("nonsense").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn pages_are_the_same_twice_and_one_for_each_instruction() {
        let chip = Chip::preset("maia-200").unwrap();
        let pages: Vec<String> = INFO.iter().map(|i| page(i, &chip)).collect();
        let again: Vec<String> = INFO.iter().map(|i| page(i, &chip)).collect();
        assert_eq!(pages, again);
        let all = all_pages(&chip);
        let titles = all.lines().filter(|l| l.starts_with("## `"));
        assert_eq!(titles.count(), INFO.len());
        assert!(all.contains(doc::MODEL_LANGUAGE));
    }
}
