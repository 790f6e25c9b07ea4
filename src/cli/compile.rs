//! `compile`: from a graph to a program, with the plan in words.

use super::{CliError, Context, graph, model, work};
use crate::report::table::bytes;
use serde_json::json;
use std::path::PathBuf;

/// Compile a model to a program
#[derive(clap::Args)]
pub struct Args {
    /// A .toml graph of one matmul or attention, an .onnx file or a Hugging Face directory (these are imported and printed; whole graphs are not lowered yet)
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Object file to write; assembly text if it is called .s [default: the model's name with .elf; none with --explain]
    #[arg(short, long, value_name = "F.elf")]
    output: Option<PathBuf>,
    /// Another extent than the model's; repeatable
    #[arg(long, value_name = "NAME=N", value_parser = model::extent)]
    shape: Vec<(String, u64)>,
    /// Another element type than the model's: bf16 or fp8; of a matmul any that `bench matmul` takes
    #[arg(long)]
    dtype: Option<String>,
    /// Say how the work is tiled and scheduled, and what bounds it
    #[arg(long)]
    explain: bool,
}

pub fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    if graph::is_graph(&args.model) {
        if args.dtype.is_some() {
            return Err(CliError::usage(
                "--dtype: a whole model keeps its element types",
            ));
        }
        return graph::compile(&args.model, &args.shape, args.explain, context);
    }
    let chip = context.chip()?;
    let model = model::read(&args.model, &args.shape, args.dtype.as_deref())?;
    let op = &model.op;
    let (compiled, compile_s) = model::compiled(op, &chip, Some(&model))?;
    let beside = || (!args.explain).then(|| args.model.with_extension("elf"));
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
