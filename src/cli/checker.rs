//! `--check` of whole models: the compiled program is proved against its graph before anything else is done with it.
//!
//! Models: what the checker ([`crate::compiler::check`]) needs of a compiled model, and what its report becomes. Leaves out: checking.
//! Invariant: a program with findings ends the command with code 1, after all of them were shown.

use super::progress::Progress;
use super::simulate::memory_limit;
use super::{CliError, Context};
use crate::chip::Chip;
use crate::compiler::chain::{Constant, Program};
use crate::compiler::check::given::Contents;
use crate::compiler::check::{self, Bindings, CheckError, Options, Report};
use crate::compiler::graph::Graph;
use crate::isa::image::Image;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of the host that each of the two checks may take for values; beside them are the constants in use.
const LIMIT: u64 = 7 << 29;
/// Parts of a check that are counted.
const PARTS: usize = 1000;

/// A constant as the checker reads it.
fn contents(constant: &Constant, image: &Image) -> Contents {
    let tensor = image.tensor(&constant.symbol);
    let bytes = tensor.map_or(0, |t| {
        let (run, _) = t.runs();
        t.dtype.bytes_for(run) * t.elements().checked_div(run).unwrap_or(0)
    });
    let (parts, all) = (constant.clone(), constant.clone());
    Contents::new(
        (bytes, constant.block_bytes(bytes)),
        move |at, out| parts.part(at, out).map_err(|e| e.to_string()),
        move |block| all.block(block).map_err(|e| e.to_string()),
    )
}

/// Checks a compiled model against its graph. Gives what `--json` says of it.
///
/// # Errors
/// Findings; constants that are not there; more memory than there may be; inputs drawn at random that the graph has no meaning for.
pub fn check(
    graph: &Graph,
    program: &Program,
    chip: &Chip,
    seed: u64,
    context: &Context,
) -> Result<Value, CliError> {
    let symbols =
        |list: &[crate::compiler::chain::Binding]| list.iter().map(|b| b.symbol.clone()).collect();
    let image = &program.image;
    let constants = program.constants.iter();
    let bindings = Bindings {
        inputs: symbols(&program.inputs),
        outputs: symbols(&program.outputs),
        constants: constants
            .map(|c| (c.symbol.clone(), contents(c, image)))
            .collect(),
        ..Bindings::default()
    };
    // Quiet inputs and loud ones.
    let seeds = [seed | 1, seed & !1];
    let progress = Progress::parts("checking", seeds.len() * PARTS, context);
    let done = [const { AtomicU64::new(0) }; 2];
    let one = |n: usize| {
        let options = Options {
            seed: seeds[n],
            memory_bytes: LIMIT,
            ..Options::default()
        };
        let watch = |part: f64| {
            done[n].store((part * PARTS as f64) as u64, Ordering::Relaxed);
            progress.done(done.iter().map(|d| d.load(Ordering::Relaxed)).sum());
        };
        check::check_watched(graph, chip, image, &bindings, &options, &watch)
    };
    // Threads of their own: one of the pool that waits for a constant could be given the other check, which waits for it too.
    let mut both = std::thread::scope(|scope| {
        let loud = scope.spawn(|| one(1));
        let quiet = one(0);
        let loud = loud.join();
        [quiet, loud.unwrap_or_else(|e| std::panic::resume_unwind(e))]
    });
    drop(progress);
    let found =
        |report: &Result<Report, CheckError>| !matches!(report, Ok(r) if r.findings.is_empty());
    let worst = both.iter().flatten().map(|r| r.worst).fold(0.0, f64::max);
    let worse = usize::from(!found(&both[0]) && found(&both[1]));
    let report = std::mem::replace(&mut both[worse], Ok(Report::default()));
    let report = report.map_err(|error| match error {
        CheckError::Constant { .. } | CheckError::Index { .. } => {
            CliError::usage(format!("--check: {error}"))
        }
        CheckError::Memory { .. } => memory_limit(&format!(
            "--check: {error}; --layers takes a part of the model"
        )),
        CheckError::Tensor(_) | CheckError::Size { .. } => CliError::Check {
            message: format!("the program does not suit its graph: {error}"),
        },
    })?;
    let report = Report { worst, ..report };
    let Some(first) = report.findings.first() else {
        context.note(report.to_string().trim_end());
        return Ok(json!({
            "operations": report.operations,
            "elements": report.elements,
            "seed": seed,
        }));
    };
    context.warn(report.to_string().trim_end());
    let count = report.findings.len();
    Err(CliError::Check {
        message: format!("the program does not compute its graph: {first} ({count} in all)"),
    })
}
