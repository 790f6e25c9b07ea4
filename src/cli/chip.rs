//! `chip list|show|check`: the presets, every number of a chip with where it comes from, and whether a description holds.

use super::{CliError, Context};
use crate::chip::{Chip, PRESETS, show};
use clap::Subcommand;
use serde_json::{Value, json};
use std::fmt::Write;

/// Show chips: presets, every number with its source, checks of a description
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The chips that come with the program
    List,
    /// Every number of a chip with its source or estimate, and the figures that follow
    Show {
        /// A preset or a TOML file [default: that of --chip]
        name: Option<String>,
    },
    /// Check a description and list the estimates it rests on
    Check {
        /// A preset or a TOML file [default: that of --chip]
        name: Option<String>,
    },
}

pub fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    match &args.command {
        Command::List => list(context),
        Command::Show { name } => {
            let chip = context.chip_named(name.as_deref())?;
            match context.json {
                true => context.print_json(show::json(&chip)),
                false => context.print(&show::text(&chip)),
            }
        }
        Command::Check { name } => check(&context.chip_named(name.as_deref())?, context),
    }
}

fn list(context: &Context) -> Result<(), CliError> {
    let chips = PRESETS
        .iter()
        .map(|name| Chip::preset(name))
        .collect::<Result<Vec<_>, _>>()?;
    if context.json {
        let chips: Vec<Value> = chips
            .iter()
            .map(|c| json!({ "name": c.name, "summary": c.summary, "tiles": c.tiles(), "clock_hz": c.clock_hz }))
            .collect();
        return context.print_json(json!({ "chips": chips }));
    }
    let mut out = String::new();
    for chip in &chips {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{:16} {}", chip.name, chip.summary);
    }
    context.print(&out)
}

fn check(chip: &Chip, context: &Context) -> Result<(), CliError> {
    let estimates: Vec<_> = show::estimates(chip).collect();
    if context.json {
        let estimates: Vec<Value> = estimates
            .iter()
            .map(|(field, why)| {
                json!({ "key": field.key, "value": show::value_text(chip, field), "estimate": why })
            })
            .collect();
        return context
            .print_json(json!({ "name": chip.name, "ok": true, "estimates": estimates }));
    }
    let mut out = format!("{}: holds; {} estimates\n", chip.name, estimates.len());
    for (field, why) in estimates {
        let _ = writeln!(
            out,
            "  {} = {}: {why}",
            field.key,
            show::value_text(chip, field)
        );
    }
    context.print(&out)
}
