//! The command line: one file per subcommand, one definition per flag.
//!
//! Models: flags, their checks, and how results and errors are shown. Leaves out: everything that computes. Invariants:
//! stdout is data and stderr is talk; with `--json` stdout holds exactly one object, also for an error; the exit code
//! follows from [`CliError`] alone; a closed stdout ends the command quietly.

pub mod asm;
mod bench;
mod bindings;
mod bounds;
mod check;
mod checker;
mod chip;
mod compile;
mod context;
mod decoder;
pub mod disasm;
mod error;
mod generate;
mod graph;
mod inputs;
mod isa;
mod mem;
mod model;
mod noc;
pub(crate) mod npy;
mod num;
mod objects;
mod outcome;
mod performance;
mod progress;
mod routing;
mod run;
mod simulate;
mod stages;
mod stream;
mod table;
mod tensors;
mod trace;
mod work;

pub use context::{ColorWhen, Context, Global};
pub use error::CliError;

use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

/// An open emulator and toolchain for an inference-first AI accelerator: one program text, executed bit-exactly and timed.
#[derive(Parser)]
#[command(
    name = "tilewright",
    version,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Asm(asm::Args),
    Disasm(disasm::Args),
    Run(run::Args),
    Trace(trace::Args),
    Compile(compile::Args),
    Bench(bench::Args),
    Chip(chip::Args),
    Isa(isa::Args),
    Num(num::Args),
    Noc(noc::Args),
    Mem(Box<mem::Args>),
    Completions(generate::CompletionsArgs),
    Man(generate::ManArgs),
}

fn dispatch(cli: &Cli, context: &Context) -> Result<(), CliError> {
    // Fails only if the pool exists already; it is the only one made.
    let _ = rayon::ThreadPoolBuilder::new()
        .num_threads(context.threads)
        .build_global();
    match &cli.command {
        Command::Asm(args) => objects::finish(asm::run(args), context),
        Command::Disasm(args) => objects::finish(disasm::run(args), context),
        Command::Run(args) => run::run(args, context),
        Command::Trace(args) => trace::run(args, context),
        Command::Compile(args) => compile::run(args, context),
        Command::Bench(args) => bench::run(args, context),
        Command::Chip(args) => chip::run(args, context),
        Command::Isa(args) => isa::run(args, context),
        Command::Num(args) => num::run(args, context),
        Command::Noc(args) => noc::run(args, context),
        Command::Mem(args) => mem::run(args, context),
        Command::Completions(args) => generate::completions(args, context),
        Command::Man(args) => generate::man(args, context),
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => {
            let context = Context::new(&cli.global);
            match dispatch(&cli, &context) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => context.fail(&error),
            }
        }
        Err(error) => usage(&error),
    }
}

/// Help and version go to stdout; a usage error to stderr, or as the JSON object that was asked for.
fn usage(error: &clap::Error) -> ExitCode {
    let wants_json = std::env::args_os()
        .take_while(|a| a != "--")
        .any(|a| a == "--json");
    if wants_json && error.use_stderr() {
        let text = error.render().to_string();
        // Of clap's text the first paragraph is the error; tips and usage follow.
        let message = text.split("\n\n").next().unwrap_or_default();
        let message = message.trim_start_matches("error: ").trim().to_owned();
        let error = CliError::usage(message);
        return Context::new(&Global::for_json()).fail(&error);
    }
    // A closed stream is no reason to fail louder.
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { 2 } else { 0 })
}

/// The definition of every flag, for completions and man pages.
fn definition() -> clap::Command {
    Cli::command()
}
