//! `run`: a program on a chip, timed or not, with tensors from and to files.

use super::simulate::{self, DEFAULT_MAX_CYCLES, Options};
use super::{CliError, Context, model, objects, outcome, tensors, work};
use crate::chip::Chip;
use crate::isa::image::Image;
use crate::report::Metrics;
use serde_json::{Map, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Run a program
#[derive(clap::Args)]
pub struct Args {
    /// A source file, an object file, or a model, which is compiled first
    #[arg(value_name = "F.s|F.elf|MODEL")]
    program: PathBuf,
    /// Set a tensor before the run; in SRAM in every unit. float16/32/64 are rounded to its type, uint8 (uint16 for BF16)
    /// are its codes
    #[arg(long, value_name = "NAME=F.npy", value_parser = tensors::binding)]
    input: Vec<(String, PathBuf)>,
    /// Write a tensor after the run, as float32; from unit 0 if it is in SRAM
    #[arg(long, value_name = "NAME=F.npy", value_parser = tensors::binding, conflicts_with = "no_data")]
    output: Vec<(String, PathBuf)>,
    /// Write codes instead of values
    #[arg(long, requires = "output")]
    raw: bool,
    /// Execute without timing
    #[arg(long, conflicts_with_all = ["no_data", "trace"])]
    untimed: bool,
    /// Time without storing or computing payloads
    #[arg(long)]
    no_data: bool,
    /// Report what the program does not order, in any run: reads and writes of the same bytes, reads of bytes never written,
    /// accesses outside every tensor, semaphores that overflow or end out of balance, error flags never read. Exit code 1 with
    /// reports
    #[arg(long)]
    sanitize: bool,
    /// Record what every engine did into a directory
    #[arg(long, value_name = "DIR")]
    trace: Option<PathBuf>,
    /// Give up after this many chip cycles (with --untimed: instructions and operations)
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = DEFAULT_MAX_CYCLES, value_parser = clap::value_parser!(u64).range(1..))]
    max_cycles: u64,
}

/// The program of a file, and how long it took to compile if it is a model.
fn program(path: &Path, chip: &Chip) -> Result<(Image, Option<f64>), CliError> {
    if path.extension().is_none_or(|e| e != "toml") {
        return Ok((objects::load_image(path)?, None));
    }
    let model = model::read(path, &[], None)?;
    let (compiled, compile_s) = model::compiled(&model.op, chip, Some(&model))?;
    Ok((compiled.image, Some(compile_s)))
}

pub fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let chip = Arc::new(context.chip()?);
    for (i, (name, _)) in args.input.iter().enumerate() {
        if args.input[..i].iter().any(|(before, _)| before == name) {
            return Err(CliError::usage(format!("--input {name} is given twice")));
        }
    }
    for (i, (_, path)) in args.output.iter().enumerate() {
        if args.output[..i].iter().any(|(_, before)| before == path) {
            return Err(CliError::usage(format!(
                "two --output flags write {}",
                path.display()
            )));
        }
    }
    let (image, compile_s) = program(&args.program, &chip)?;
    let image = Arc::new(image);
    let program = args.program.display().to_string();
    let compiled_for = image.notes.iter().find(|(key, _)| key == "chip");
    if let Some((_, name)) = compiled_for.filter(|(_, name)| *name != chip.name) {
        context.warn(&format!(
            "{program} was compiled for {name} and runs on {}",
            chip.name
        ));
    }
    let mut machine = simulate::load(&chip, &image, !args.no_data, &program)?;
    for (name, path) in &args.input {
        tensors::set(&mut machine, name, path, context)?;
    }
    for (name, path) in &args.output {
        // Before the run: a misspelt name should not cost one.
        tensors::check_output(&machine, name, path)?;
    }
    let findings = match args.sanitize {
        true => {
            let given: Vec<&str> = args.input.iter().map(|(name, _)| name.as_str()).collect();
            let steps = args.untimed.then_some(args.max_cycles);
            Some(simulate::sanitize(&machine, &given, steps, context)?)
        }
        false => None,
    };
    let options = Options {
        untimed: args.untimed,
        trace: args.trace.is_some(),
        max_cycles: args.max_cycles,
    };
    let mut run = simulate::run(machine, &options, context)?;
    for (name, path) in &args.output {
        tensors::get(&run.machine, name, path, args.raw)?;
    }
    if let Some(dir) = &args.trace {
        simulate::write_trace(dir, &mut run, &program)?;
    }
    let mut metrics = Metrics::new(&chip, work::of_image(&image, &chip));
    metrics.measured = run.measured.take();
    metrics.program_bytes = image.program_bytes();
    metrics.wall_s = run.wall_s;
    metrics.compile_s = compile_s;
    let expected = !args.no_data && image.tensors.iter().any(|t| t.expect.is_some());
    metrics.check = outcome::expectations(expected, &run.machine.check_expectations());
    let mut extra = Map::new();
    extra.insert("program".into(), json!(program));
    extra.insert("untimed".into(), json!(run.summary));
    extra.insert("events".into(), json!(run.events));
    let mode = match (args.untimed, args.no_data) {
        (true, _) => ", untimed",
        (_, true) => ", without data",
        _ => "",
    };
    let title = format!("{program} on {}{mode}", chip.name);
    outcome::show(&title, &metrics, extra, findings.as_ref(), context)
}
