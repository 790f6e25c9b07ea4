//! Running a loaded machine, timed or not, and what a run says in the end: shared by `run` and `bench`.

use super::progress::Progress;
use super::{CliError, Context};
use crate::chip::Chip;
use crate::isa::image::Image;
use crate::machine::{
    self, Findings, LoadOptions, Machine, MachineError, RunError, SanitizeOptions, UntimedLimits,
    UntimedSummary, run_untimed,
};
use crate::report::{Measured, by_kind};
use crate::timing::{self, TimedOptions};
use crate::trace::Trace;
use crate::trace::file::{self, Listing, Recording, TraceError};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Cycles after which a run is given up unless `--max-cycles` says otherwise: half a second of the
/// default chip. No program that comes with the crate takes a hundredth of it.
pub const DEFAULT_MAX_CYCLES: u64 = 1_000_000_000;

/// Host bytes that the simulated memories may take.
pub const MEMORY_LIMIT: u64 = 8 << 30;

/// How to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Without time: the executor alone.
    pub untimed: bool,
    /// Record spans and operations.
    pub trace: bool,
    /// Cycles of a timed run, steps of an untimed one.
    pub max_cycles: u64,
}

/// A finished run.
pub struct Run {
    /// The machine at the end.
    pub machine: Machine,
    /// What it took, if it was timed.
    pub measured: Option<Measured>,
    /// What the engines did, if it was timed.
    pub trace: Option<Trace>,
    /// What it did, if it was not timed.
    pub summary: Option<UntimedSummary>,
    /// Events of the simulation, if it was timed.
    pub events: Option<u64>,
    /// Host time of the simulation alone.
    pub wall_s: f64,
}

/// The machine at reset.
pub fn load(
    chip: &Arc<Chip>,
    image: &Arc<Image>,
    data: bool,
    place: &str,
) -> Result<Machine, CliError> {
    let options = LoadOptions {
        data,
        memory_limit: MEMORY_LIMIT,
    };
    Machine::load(chip.clone(), image.clone(), &options).map_err(|e| machine_error(place, &e))
}

/// Runs to the end.
pub fn run(mut machine: Machine, options: &Options, context: &Context) -> Result<Run, CliError> {
    let _progress = Progress::start("simulating", context);
    let start = Instant::now();
    if options.untimed {
        let limits = UntimedLimits {
            max_steps: options.max_cycles,
            ..UntimedLimits::default()
        };
        let summary = run_untimed(&mut machine, &limits).map_err(|e| run_error(&e))?;
        return Ok(Run {
            machine,
            measured: None,
            trace: None,
            summary: Some(summary),
            events: None,
            wall_s: start.elapsed().as_secs_f64(),
        });
    }
    let timed = TimedOptions {
        threads: if machine.data {
            context.threads
        } else {
            context.threads_no_data
        },
        max_cycles: Some(options.max_cycles),
        trace: options.trace,
        shuffle: None,
    };
    let run = timing::run(machine, &timed).map_err(|e| run_error(&e))?;
    let wall_s = start.elapsed().as_secs_f64();
    let measured = Measured {
        cycles: run.cycles,
        time_s: run.end.seconds(),
        hbm_read_bytes: run.counters.hbm_read_bytes,
        hbm_write_bytes: run.counters.hbm_write_bytes,
        macs: run.counters.work.macs,
        tensor_fj: run.counters.work.tensor_fj,
        vector_flops: run.counters.work.vector_flops,
        stalls: by_kind(&run.trace),
    };
    Ok(Run {
        machine: run.machine,
        measured: Some(measured),
        trace: Some(run.trace),
        summary: None,
        events: Some(run.events),
        wall_s,
    })
}

/// Runs a copy of the machine under the sanitizer, which needs no time. Tensors in `given` have contents.
pub fn sanitize(
    machine: &Machine,
    given: &[&str],
    max_steps: Option<u64>,
    context: &Context,
) -> Result<Findings, CliError> {
    let _progress = Progress::start("sanitizing", context);
    let mut limits = UntimedLimits::default();
    limits.max_steps = max_steps.unwrap_or(limits.max_steps);
    let options = SanitizeOptions {
        limits,
        given,
        ..SanitizeOptions::default()
    };
    let sanitized = machine::sanitize(machine, &options);
    let (findings, result) = (sanitized.findings, sanitized.result);
    let Err(error) = result else {
        return Ok(findings);
    };
    let mut error = run_error(&error);
    if findings.count > 0
        && let CliError::Run {
            message, detail, ..
        } = &mut error
    {
        *message = format!("{findings}\nthen {message}");
        *detail = Some(json!({ "sanitizer": findings, "error": detail.take() }));
    }
    Err(error)
}

/// Writes the trace of a run with the listing of its program and the facts that `trace` shows.
pub fn write_trace(dir: &Path, run: &mut Run, program: &str) -> Result<(), CliError> {
    let Some(mut trace) = run.trace.take() else {
        return Ok(());
    };
    let chip = &run.machine.chip;
    let cycles = run.measured.as_ref().map(|m| m.cycles);
    let facts = [
        ("chip", chip.name.as_str().into()),
        ("clock_hz", chip.clock_hz.into()),
        ("cycles", cycles.into()),
        ("program", program.into()),
        ("tilewright", env!("CARGO_PKG_VERSION").into()),
    ];
    let named = facts.map(|(name, value)| (name.to_owned(), value));
    trace.meta.extend(named);
    let recording = Recording {
        trace,
        listing: Listing::new(&run.machine.image),
    };
    Ok(file::write(dir, &recording)?)
}

impl From<TraceError> for CliError {
    fn from(error: TraceError) -> CliError {
        match error {
            TraceError::Io { path, error } => CliError::io("write", &path, &error),
            TraceError::Content { path, problem } => {
                CliError::file(path.display().to_string(), problem)
            }
        }
    }
}

/// Something takes more host memory than it may.
pub fn memory_limit(message: &str) -> CliError {
    CliError::Run {
        code: "memory_limit",
        exit: 4,
        place: None,
        message: message.to_owned(),
        detail: None,
    }
}

/// A program that does not fit the chip, or a tensor that cannot be had.
pub fn machine_error(place: &str, error: &MachineError) -> CliError {
    match error {
        MachineError::MemoryLimit { .. } => CliError::Run {
            code: "memory_limit",
            exit: error.exit_code(),
            place: Some(place.to_owned()),
            message: error.to_string(),
            detail: None,
        },
        _ => CliError::file(place, error.to_string()),
    }
}

/// A run that ended early.
pub fn run_error(error: &RunError) -> CliError {
    let (code, place, detail) = match error {
        RunError::Trap(trap) => ("trap", trap.place.clone(), serde_json::to_value(trap)),
        RunError::KernelSteps(trap) => {
            ("step_limit", trap.place.clone(), serde_json::to_value(trap))
        }
        RunError::Spin(trap) => ("spin", trap.place.clone(), serde_json::to_value(trap)),
        RunError::Deadlock(report) => {
            let place = report.blocked.first().and_then(|b| b.place.clone());
            ("deadlock", place, serde_json::to_value(report))
        }
        RunError::StepLimit(_) => ("step_limit", None, Ok(().into())),
        RunError::CycleLimit(_) => ("cycle_limit", None, Ok(().into())),
        RunError::TraceLimit { .. } => ("trace_limit", None, Ok(().into())),
        RunError::MemoryLimit { .. } => ("memory_limit", None, Ok(().into())),
        RunError::SanitizerLimit { .. } => ("sanitizer_limit", None, Ok(().into())),
    };
    CliError::Run {
        code,
        exit: error.exit_code(),
        place,
        message: error.to_string(),
        // Plain data: it always has a JSON form.
        detail: detail.ok().filter(|d| !d.is_null()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::op::UnitId;
    use crate::machine::{Trap, TrapKind};

    #[test]
    fn an_endless_kernel_is_a_limit_and_not_a_trap() {
        let of = |kind| {
            let trap = Trap {
                unit: UnitId::Tile(0),
                pc: 0,
                place: None,
                instruction: String::new(),
                kind,
            };
            let error = run_error(&RunError::from(trap));
            (error.code(), error.exit_code())
        };
        assert_eq!(of(TrapKind::KernelSteps { limit: 5 }), ("step_limit", 4));
        assert_eq!(of(TrapKind::MemoryLimit { limit: 5 }), ("memory_limit", 4));
        assert_eq!(of(TrapKind::DivideByZero), ("trap", 1));
    }
}
