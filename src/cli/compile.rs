//! `compile`: from a graph to a program, with the plan in words.

use super::{CliError, Context, graph, model, work};
use crate::report::table::bytes;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Compile a model to a program
#[derive(clap::Args)]
pub struct Args {
    /// A .toml graph of one matmul or attention, an .onnx file or a Hugging Face directory (a whole model, as one program)
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Object file to write; assembly text if it is called .s [default: the model's name with .elf; none with --explain]
    #[arg(short, long, value_name = "F.elf")]
    output: Option<PathBuf>,
    /// Another extent than the model's; repeatable
    #[arg(long, value_name = "NAME=N", value_parser = model::extent)]
    shape: Vec<(String, u64)>,
    /// Products of a whole model: faithful (as exact as their operands: F32 as three BF16 terms), bf16, or those with weights, all
    /// else BF16, in fp8 (E4M3 with a scale for each row and column), mxfp8, mxfp6, mxfp4, nvfp4 (blocks with a scale each), w4a8 (MXFP4
    /// weights, MXFP8 rows) or w4a16 (MXFP4 weights, BF16 rows) [default: faithful]. Of one attention: bf16 or fp8; of one matmul
    /// any that `bench matmul` takes [default: the file's]
    #[arg(long)]
    dtype: Option<String>,
    /// Leave the contents of a whole model's constants out of the object: for `run --no-data`
    #[arg(long)]
    no_data: bool,
    /// Prove of a whole model's program that every operand is the data meant, for random inputs and in any order; exit code 1 if not
    #[arg(long)]
    check: bool,
    /// Say how the work is tiled and scheduled, and what bounds it
    #[arg(long)]
    explain: bool,
}

/// The object that is written unless a path is given: named like the model, where the command runs if that is a directory.
fn beside(model: &Path) -> PathBuf {
    match (model.is_dir(), model.file_name()) {
        // Not `with_extension`: names of models have dots.
        (true, Some(name)) => PathBuf::from(format!("{}.elf", name.to_string_lossy())),
        (true, None) => PathBuf::from("model.elf"),
        (false, _) => model.with_extension("elf"),
    }
}

pub fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    if graph::is_graph(&args.model) {
        let beside = || (!args.explain).then(|| beside(&args.model));
        let compile = graph::Compile {
            path: &args.model,
            extents: &args.shape,
            products: graph::products(args.dtype.as_deref())?,
            output: args.output.clone().or_else(beside),
            explain: args.explain,
            no_data: args.no_data,
            check: args.check,
        };
        return compile.run(context);
    }
    let chip = context.chip()?;
    let model = model::read(&args.model, &args.shape, args.dtype.as_deref())?;
    let op = &model.op;
    let (compiled, compile_s) = model::compiled(op, &chip, Some(&model), context)?;
    if args.no_data {
        return Err(CliError::usage("--no-data: one operation has no constants"));
    }
    let beside = || (!args.explain).then(|| beside(&args.model));
    if args.check {
        return Err(CliError::usage(
            "--check: one operation has no graph; `bench` takes --check",
        ));
    }
    let output = args.output.clone().or_else(beside);
    if let Some(path) = &output {
        model::write(&compiled, path)?;
        context.note(&format!(
            "wrote {} ({} of program)",
            path.display(),
            bytes(compiled.image.program_bytes())
        ));
    }
    if context.json {
        let work = work::of_op(op, Some(compiled.plan.split_k), &chip);
        return context.print_json(json!({
            "chip": chip.name,
            "op": op,
            "flops": work.flops,
            "bound": work.bound.as_ref().map(|b| &b.0),
            "bound_time_s": work.bound.as_ref().map(|b| b.1),
            "split_k": work.split_k,
            "program_bytes": compiled.image.program_bytes(),
            "compile_s": compile_s,
            "plan": compiled.plan,
            "output": output,
        }));
    }
    match args.explain {
        true => context.print(&format!("{}  bound {}\n", compiled.plan, op.bound(&chip))),
        false => Ok(()),
    }
}
