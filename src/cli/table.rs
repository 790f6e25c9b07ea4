//! `bench table`: many shapes in one run, beside what other accelerators were measured at, or held against a limit.
//!
//! Models nothing: a row is what `bench matmul|attention --no-data` with the same shape shows. Leaves out: data and checks. Invariant:
//! rows, their order and their figures, host times aside, do not depend on the number of threads.

mod beside;
mod tiny;

use super::progress::Progress;
use super::simulate::{self, DEFAULT_MAX_CYCLES};
use super::{CliError, Context};
use crate::chip::Chip;
use crate::compiler::cache::Cache;
use crate::compiler::{self, MatmulType, Op, op::MAX_EXTENT};
use crate::report::devices;
use crate::timing::{self, TimedOptions};
use clap::ValueEnum;
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Instant;

/// Shown under `--help`.
pub const EXAMPLES: &str = "\
Examples:
  tilewright bench table
  tilewright bench table --kind gemm --dtype fp8 --filter m=1,64,4096 --filter n=7168
  tilewright bench table --kind prefill,decode --all --json
  tilewright bench table --kind tiny
";

/// The chip without `--chip`: the clock that the targets of the model are stated at.
const CHIP: &str = "maia-200-2ghz";

/// Shapes measured on B200 and H200, ours beside them; or tiny and ragged shapes against a limit
///
/// Every row compiles and runs without data. gemm, prefill and decode print time and share of each chip's own peak, of the tensor units or
/// of HBM, whichever takes that chip longer. tiny prints time, bound, and whether time <= 2 x bound + 2 us. Of the element types measured
/// elsewhere, bfloat16 runs as bf16, fp8 with any recipe of scales as fp8 (E4M3), nvfp4 as nvfp4.
#[derive(clap::Args)]
pub struct Args {
    /// What to run
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "gemm,prefill,decode"
    )]
    kind: Vec<KindName>,
    /// Only rows of these types
    #[arg(long, value_name = "DTYPE", value_delimiter = ',')]
    dtype: Vec<String>,
    /// Only rows with one of these values of an extent, such as m=1,64; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = filter)]
    filter: Vec<Filter>,
    /// Also the rows that take the host long
    #[arg(long)]
    all: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KindName {
    /// Linear layers, beside B200 and H200
    Gemm,
    /// Causal attention over whole prompts, beside B200 and H200
    Prefill,
    /// Attention of one new token, beside B200 and H200
    Decode,
    /// Tiny and ragged products and attentions, against 2 x bound + 2 us
    Tiny,
}

impl KindName {
    /// What was measured elsewhere under this name.
    fn measured(self) -> Option<devices::Kind> {
        match self {
            KindName::Gemm => Some(devices::Kind::Gemm),
            KindName::Prefill => Some(devices::Kind::Prefill),
            KindName::Decode => Some(devices::Kind::Decode),
            KindName::Tiny => None,
        }
    }

    /// Names of the extents of its rows.
    fn extents(self) -> Vec<&'static str> {
        match self.measured() {
            Some(kind) => kind.extents().to_vec(),
            None => tiny::EXTENTS.to_vec(),
        }
    }
}

/// Values of an extent to keep.
#[derive(Clone, Debug)]
struct Filter {
    key: String,
    values: Vec<u64>,
}

/// `KEY=VALUE[,VALUE..]` of a flag.
fn filter(text: &str) -> Result<Filter, String> {
    let Some((key, values)) = text.split_once('=') else {
        return Err("expected KEY=VALUE, such as m=64".to_owned());
    };
    let value = |v: &str| match v.trim().parse::<u64>() {
        Ok(value) if (1..=MAX_EXTENT).contains(&value) => Ok(value),
        _ => Err(format!("`{v}`: expected a whole number, 1 to {MAX_EXTENT}")),
    };
    let values: Result<Vec<u64>, String> = values.split(',').map(value).collect();
    Ok(Filter {
        key: key.trim().replace('-', "_"),
        values: values?,
    })
}

/// A row to run.
struct Case {
    kind: KindName,
    /// The name of `--dtype`.
    dtype: &'static str,
    extents: Vec<(&'static str, u64)>,
    op: Op,
    /// What other devices reached.
    row: Option<devices::Row>,
}

impl Case {
    fn kept(&self, args: &Args) -> bool {
        let of_dtype = args.dtype.is_empty() || args.dtype.iter().any(|d| d == self.dtype);
        of_dtype
            && args.filter.iter().all(|filter| {
                let mut extents = self.extents.iter();
                extents.any(|(key, value)| filter.key == *key && filter.values.contains(value))
            })
    }

    /// The shape in words.
    fn shape(&self) -> String {
        let all = self
            .extents
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        all.collect::<Vec<_>>().join(" ")
    }
}

/// What a row took.
#[derive(Clone, Copy, Debug)]
struct Taken {
    cycles: u64,
    time_s: f64,
    /// Events of the simulation.
    events: u64,
    /// Host seconds of compiling and running.
    host_s: f64,
}

/// Why a row has no figures.
#[derive(Clone, Debug)]
enum Missing {
    /// The compiler has no program for it.
    NoPlan(String),
    /// The program did not end well.
    Failed(String),
}

impl Missing {
    fn text(&self) -> &str {
        match self {
            Missing::NoPlan(text) | Missing::Failed(text) => text,
        }
    }
}

type Outcome = Result<Taken, Missing>;

fn simulate(op: &Op, chip: &Arc<Chip>, cache: &Cache) -> Outcome {
    let start = Instant::now();
    let compiled = compiler::compile_kept(op, chip, cache).map_err(|e| match e {
        compiler::CompileError::Assembly { .. } => Missing::Failed(e.to_string()),
        _ => Missing::NoPlan(e.to_string()),
    })?;
    let failed = |e: CliError| Missing::Failed(e.to_string());
    let machine =
        simulate::load(chip, &Arc::new(compiled.image), false, op.name()).map_err(failed)?;
    // Rows share the host's threads; a run has one.
    let options = TimedOptions {
        max_cycles: Some(DEFAULT_MAX_CYCLES),
        ..TimedOptions::default()
    };
    let run = timing::run(machine, &options).map_err(|e| failed(simulate::run_error(&e)))?;
    Ok(Taken {
        cycles: run.cycles,
        time_s: run.end.seconds(),
        events: run.events,
        host_s: start.elapsed().as_secs_f64(),
    })
}

/// Refuses element types and extents that no row can have.
fn validate(args: &Args) -> Result<(), CliError> {
    let known: Vec<&str> = MatmulType::ALL.map(MatmulType::name).into();
    if let Some(name) = args.dtype.iter().find(|d| !known.contains(&d.as_str())) {
        return Err(CliError::usage(format!(
            "--dtype `{name}` is not one of {}",
            known.join(", ")
        )));
    }
    let mut keys: Vec<&str> = Vec::new();
    for key in args.kind.iter().flat_map(|kind| kind.extents()) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    match args.filter.iter().find(|f| !keys.contains(&f.key.as_str())) {
        Some(filter) => Err(CliError::usage(format!(
            "--filter {}: the rows have {}",
            filter.key,
            keys.join(", ")
        ))),
        None => Ok(()),
    }
}

/// Runs the rows and prints them.
pub fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    validate(args)?;
    let chip = Arc::new(context.chip_or(CHIP)?);
    let mut cases = Vec::new();
    for kind in [
        KindName::Gemm,
        KindName::Prefill,
        KindName::Decode,
        KindName::Tiny,
    ] {
        if args.kind.contains(&kind) {
            cases.extend(match kind.measured() {
                Some(measured) => beside::cases(kind, measured),
                None => tiny::cases(),
            });
        }
    }
    cases.retain(|case| case.kept(args));
    if cases.is_empty() {
        return Err(CliError::usage("no row has these types and extents"));
    }
    let matching = cases.len();
    if !args.all {
        cases.retain(|case| case.row.as_ref().is_none_or(beside::short));
    }
    let left_out = matching - cases.len();
    if cases.is_empty() {
        return Err(CliError::usage(format!(
            "all {left_out} rows take the host long; --all runs them"
        )));
    }
    let outcomes: Vec<Outcome> = {
        let progress = Progress::parts("simulating", cases.len(), context);
        let all = cases.par_iter().with_max_len(1).map(|case| {
            let outcome = simulate(&case.op, &chip, &context.cache);
            progress.part_done();
            outcome
        });
        all.collect()
    };
    let rows: Vec<(&Case, &Outcome)> = cases.iter().zip(&outcomes).collect();
    let beside: Vec<_> = rows.iter().copied().filter(|r| r.0.row.is_some()).collect();
    let tiny: Vec<_> = rows.iter().copied().filter(|r| r.0.row.is_none()).collect();
    if context.json {
        let list = rows.iter().map(|row| json_of(row, &chip));
        let list: Vec<Value> = list.collect();
        let mut object = json!({
            "chip": chip.name, "clock_hz": chip.clock_hz, "rows": list, "left_out": left_out,
        });
        if !beside.is_empty() {
            object["source"] = json!(devices::SOURCE);
            object["summary"] = json!(beside::summary_json(&beside, &chip));
        }
        if !tiny.is_empty() {
            object["limit"] = tiny::summary_json(&tiny, &chip);
        }
        context.print_json(object)?;
    } else {
        let mut parts = Vec::new();
        if !beside.is_empty() {
            parts.push(beside::text(&beside, &chip));
        }
        if !tiny.is_empty() {
            parts.push(tiny::text(&tiny, &chip));
        }
        let mut text = parts.join("\n");
        if left_out > 0 {
            text += &format!(
                "\n{left_out} rows that take the host long are left out; --all runs them\n"
            );
        }
        context.print(&text)?;
    }
    let failed = rows.iter().find_map(|(case, outcome)| match outcome {
        Err(Missing::Failed(message)) => Some((case, message)),
        _ => None,
    });
    match failed {
        Some((case, message)) => Err(CliError::Check {
            message: format!("{}: {message}", case.op),
        }),
        None => Ok(()),
    }
}

/// A row as JSON: what every row has, then what its kind adds.
fn json_of((case, outcome): &(&Case, &Outcome), chip: &Chip) -> Value {
    let shape: Map<String, Value> = case
        .extents
        .iter()
        .map(|(key, value)| ((*key).to_owned(), json!(value)))
        .collect();
    let bound = case.op.bound(chip);
    let taken = outcome.as_ref().ok();
    let mut object = json!({
        "kind": case.kind.to_possible_value().map(|v| v.get_name().to_owned()),
        "op": case.op.name(),
        "dtype": case.dtype,
        "shape": shape,
        "cycles": taken.map(|t| t.cycles),
        "time_s": taken.map(|t| t.time_s),
        "bound": bound.unit.name(),
        "bound_time_s": bound.time_s,
        "percent_of_bound": taken.map(|t| 100.0 * bound.time_s / t.time_s),
        "events": taken.map(|t| t.events),
        "host_s": taken.map(|t| t.host_s),
        "error": outcome.as_ref().err().map(Missing::text),
    });
    let more = match &case.row {
        Some(row) => beside::json_of(row, case, taken, chip),
        None => tiny::json_of(&bound, taken),
    };
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}

/// Rows without figures, a line each.
fn missing(rows: &[(&Case, &Outcome)]) -> String {
    let mut out = String::new();
    for (case, outcome) in rows {
        if let Err(why) = outcome {
            let word = match why {
                Missing::NoPlan(_) => "no plan",
                Missing::Failed(_) => "FAILED",
            };
            out += &format!("{word}: {} {}: {}\n", case.dtype, case.shape(), why.text());
        }
    }
    out
}
