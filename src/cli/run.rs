//! `run`: a program on a chip, timed or not, with tensors from and to files.

use super::bindings::{Bindings, Named};
use super::simulate::{self, DEFAULT_MAX_CYCLES, Options};
use super::{CliError, Context, checker, graph, model, objects, outcome, tensors, work};
use crate::chip::Chip;
use crate::compiler::chain::Constant;
use crate::isa::image::Image;
use crate::report::Metrics;
use serde_json::{Map, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Run a program
#[derive(clap::Args)]
pub struct Args {
    /// A source file, an object file, or a model (.toml, .onnx, a Hugging Face directory), which is compiled first
    #[arg(value_name = "F.s|F.elf|MODEL")]
    program: PathBuf,
    /// Set a tensor, or a model's input, before the run; in SRAM in every unit. float16/32/64 are rounded to its type, uint8 (uint16 for BF16)
    /// are its codes
    #[arg(long, value_name = "NAME=F.npy", value_parser = tensors::binding)]
    input: Vec<(String, PathBuf)>,
    /// Write a tensor after the run, as float32; from unit 0 if it is in SRAM
    #[arg(long, value_name = "NAME=F.npy", value_parser = tensors::binding, conflicts_with = "no_data")]
    output: Vec<(String, PathBuf)>,
    /// An extent that a model leaves open; repeatable
    #[arg(long, value_name = "NAME=N", value_parser = model::extent)]
    shape: Vec<(String, u64)>,
    /// Products of a whole model: faithful (as exact as their operands: F32 as three BF16 terms), bf16, or those with weights, all
    /// else BF16, in fp8 (E4M3 with a scale for each row and column), mxfp8, mxfp6, mxfp4, nvfp4 (blocks with a scale each), w4a8 (MXFP4
    /// weights, MXFP8 rows) or w4a16 (MXFP4 weights, BF16 rows) [default: faithful]. Of a .toml model: its element type
    #[arg(long)]
    dtype: Option<String>,
    /// Write codes instead of values
    #[arg(long, requires = "output")]
    raw: bool,
    /// Execute without timing
    #[arg(long, conflicts_with_all = ["no_data", "trace"])]
    untimed: bool,
    /// Time without storing or computing payloads
    #[arg(long)]
    no_data: bool,
    /// Prove of a model that its program computes it, before the run: for random inputs and in any order; exit code 1 if not
    #[arg(long)]
    check: bool,
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

/// What there is to run.
struct Program {
    image: Image,
    /// Of a model, whose contents are not in the image.
    constants: Vec<Constant>,
    /// Of a model: the time that compiling took, and what the host folded: nodes of the source, how many of them, in words.
    compile_s: Option<f64>,
    folded: Option<([usize; 2], String)>,
    /// What `--check` proved of a model.
    checked: Option<serde_json::Value>,
}

/// The program of a file.
fn program(args: &Args, chip: &Chip, context: &Context) -> Result<Program, CliError> {
    let path: &Path = &args.program;
    let dtype = args.dtype.as_deref();
    if graph::is_graph(path) {
        let products = graph::products(dtype)?;
        let imported = graph::read(path, &args.shape)?;
        let source = graph::Source::File(path);
        let whole = graph::compiled(&imported, chip, products, source, context)?;
        let checked = match args.check {
            true => Some(checker::check(
                &whole.graph,
                &whole.program,
                chip,
                1,
                context,
            )?),
            false => None,
        };
        return Ok(Program {
            image: whole.program.image,
            constants: whole.program.constants,
            compile_s: Some(whole.compile_s),
            folded: Some((whole.nodes, whole.folded)),
            checked,
        });
    }
    if args.check {
        return Err(CliError::usage(
            "--check: only a model that is compiled here has a graph to be held against",
        ));
    }
    let alone = |image, compile_s| Program {
        image,
        constants: Vec::new(),
        compile_s,
        folded: None,
        checked: None,
    };
    if path.extension().is_some_and(|e| e == "toml") {
        let model = model::read(path, &args.shape, dtype)?;
        let (compiled, compile_s) = model::compiled(&model.op, chip, Some(&model), context)?;
        return Ok(alone(compiled.image, Some(compile_s)));
    }
    if let Some((name, _)) = args.shape.first() {
        return Err(CliError::usage(format!(
            "--shape {name}: {} is a program, whose shapes are fixed",
            path.display()
        )));
    }
    if dtype.is_some() {
        return Err(CliError::usage(format!(
            "--dtype: {} is a program, whose types are fixed",
            path.display()
        )));
    }
    Ok(alone(objects::load_image(path)?, None))
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
    let Program {
        image,
        constants,
        compile_s,
        folded,
        checked,
    } = program(args, &chip, context)?;
    if let Some((_, words)) = &folded {
        context.note(words);
    }
    let image = Arc::new(image);
    let bindings = Bindings::of(&image);
    let find = |find: &dyn Fn(&str) -> Result<Named, CliError>, flags: &[(String, PathBuf)]| {
        let each = flags
            .iter()
            .map(|(name, path)| Ok((find(name)?, path.clone())));
        each.collect::<Result<Vec<(Named, PathBuf)>, CliError>>()
    };
    // Before the run: a misspelt name should not cost one.
    let inputs = find(&|name| bindings.input(&image, name), &args.input)?;
    let outputs = find(&|name| bindings.output(&image, name), &args.output)?;
    for (named, path) in &outputs {
        tensors::check_output(named, path)?;
    }
    let names: Vec<&str> = inputs.iter().map(|(n, _)| n.name.as_str()).collect();
    bindings.check_given(&names, !args.no_data)?;
    let program = args.program.display().to_string();
    let compiled_for = image.notes.iter().find(|(key, _)| key == "chip");
    if let Some((_, name)) = compiled_for.filter(|(_, name)| *name != chip.name) {
        context.warn(&format!(
            "{program} was compiled for {name} and runs on {}",
            chip.name
        ));
    }
    let mut machine = simulate::load(&chip, &image, !args.no_data, &program)?;
    graph::set_constants(&mut machine, &constants, context)?;
    for (named, path) in &inputs {
        tensors::set(&mut machine, named, path, context)?;
    }
    let findings = match args.sanitize {
        true => {
            let symbols = inputs.iter().map(|(named, _)| named.symbol.as_str());
            let constants = constants.iter().map(|c| c.symbol.as_str());
            let given: Vec<&str> = symbols.chain(constants).collect();
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
    for (named, path) in &outputs {
        tensors::get(&run.machine, named, path, args.raw)?;
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
    if let Some(checked) = checked {
        extra.insert("checked".into(), checked);
    }
    if let Some(([nodes, of_them], _)) = folded {
        extra.insert("nodes".into(), json!(nodes));
        extra.insert("folded".into(), json!(of_them));
    }
    let mode = match (args.untimed, args.no_data) {
        (true, _) => ", untimed",
        (_, true) => ", without data",
        _ => "",
    };
    let title = format!("{program} on {}{mode}", chip.name);
    outcome::show(&title, &metrics, extra, findings.as_ref(), context)
}
