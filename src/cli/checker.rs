//! `--check` of whole models: the compiled program is proved against its graph before anything else is done with it.
//!
//! Models: what the checker ([`crate::compiler::check`]) needs of a compiled model, and what its report becomes. Leaves out: checking.
//! Invariant: a program with findings ends the command with code 1, after all of them were shown.

use super::progress::Progress;
use super::simulate::memory_limit;
use super::{CliError, Context, graph};
use crate::chip::Chip;
use crate::compiler::chain::Program;
use crate::compiler::check::{self, Bindings, CheckError, Options, Report};
use crate::compiler::graph::{Data, Graph, Kind};
use crate::num::random::{normal, splitmix64};
use crate::num::{Overflow, Rounding, encode_slice};
use serde_json::{Value, json};

/// Bytes of constants of a model that is checked: the host holds them as the graph has them, as they lie in HBM, and in parts as numbers.
const LIMIT: u64 = 3 << 30;

/// Gives constants without values random ones, so that a model without its weights can be checked.
///
/// # Errors
/// More than the host should hold.
pub fn draw_weights(graph: &mut Graph, seed: u64) -> Result<(), CliError> {
    let all = graph.constants().map(|(_, value, _)| value.bytes());
    let bytes = all.fold(0u64, u64::saturating_add);
    if bytes > LIMIT {
        return Err(memory_limit(&format!(
            "--check: the model's constants take {bytes} bytes, at most {LIMIT} are checked; --layers takes a part of the model"
        )));
    }
    for (i, value) in graph.values.iter_mut().enumerate() {
        let Kind::Constant(data) = &mut value.kind else {
            continue;
        };
        if *data != Data::Absent {
            continue;
        }
        let shape = &value.shape;
        let count: u64 = shape.iter().product();
        // Sums stay near 1, as those of trained weights do.
        let inputs = shape.iter().rev().nth(1).copied().unwrap_or(1).max(1);
        let scale = (inputs as f32).sqrt().recip();
        let seed = splitmix64(seed, i as u64);
        let mut bytes = vec![0; value.dtype.bytes_for(count) as usize];
        // Numbers of normal distribution are dear: 2^16 + 1 of them go round, which no stride of a power of two meets again.
        let ring: Vec<f32> = (0..(1u64 << 16) + 1)
            .map(|i| scale * normal(seed, i))
            .collect();
        let values: Vec<f32> = ring.iter().copied().cycle().take(count as usize).collect();
        let (rounding, overflow) = (Rounding::Rne, Overflow::Saturate);
        encode_slice(value.dtype, &values, &mut bytes, rounding, overflow);
        *data = Data::Bytes(bytes.into());
    }
    Ok(())
}

/// Checks a compiled model against its graph. Gives what `--json` says of it.
///
/// # Errors
/// Findings; constants that are not there or too many; inputs drawn at random that the graph has no meaning for.
pub fn check(
    graph: &Graph,
    program: &Program,
    chip: &Chip,
    seed: u64,
    context: &Context,
) -> Result<Value, CliError> {
    let sizes = graph.constants().map(|(_, value, _)| value.bytes());
    let bytes = sizes.fold(0u64, u64::saturating_add);
    if bytes > LIMIT {
        return Err(memory_limit(&format!(
            "--check: the model's constants take {bytes} bytes, at most {LIMIT} are checked"
        )));
    }
    let symbols =
        |list: &[crate::compiler::chain::Binding]| list.iter().map(|b| b.symbol.clone()).collect();
    let mut constants = Vec::new();
    for constant in &program.constants {
        constants.push((constant.symbol.clone(), graph::bytes(constant)?));
    }
    let bindings = Bindings {
        inputs: symbols(&program.inputs),
        outputs: symbols(&program.outputs),
        constants,
    };
    let progress = Progress::start("checking", context);
    // Quiet inputs and loud ones.
    let mut both = [seed | 1, seed & !1].map(|seed| {
        let options = Options {
            seed,
            ..Options::default()
        };
        check::check(graph, chip, &program.image, &bindings, &options)
    });
    drop(progress);
    let found =
        |report: &Result<Report, CheckError>| !matches!(report, Ok(r) if r.findings.is_empty());
    let worse = usize::from(!found(&both[0]) && found(&both[1]));
    let report = std::mem::replace(&mut both[worse], Ok(Report::default()));
    let report = report.map_err(|error| match error {
        CheckError::Constant { .. } | CheckError::Index { .. } => {
            CliError::usage(format!("--check: {error}"))
        }
        CheckError::Tensor(_) | CheckError::Size { .. } => CliError::Check {
            message: format!("the program does not suit its graph: {error}"),
        },
    })?;
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
