//! Showing a run: the metrics as a compact text, and the result with its exit code.

use super::{CliError, Context};
use crate::machine::sanitize::report::counted;
use crate::machine::{Findings, Mismatch};
use crate::report::table::{bytes, duration, grouped, joules};
use crate::report::{Check, KindStalls, Metrics, Table};
use serde_json::{Map, Value, json};

/// Reasons shown per engine kind.
const TOP_REASONS: usize = 4;

/// What a command adds to the metrics.
#[derive(Default)]
pub struct Extra {
    /// Further keys.
    pub json: Map<String, Value>,
    /// Further lines.
    pub text: String,
}

impl From<Map<String, Value>> for Extra {
    fn from(json: Map<String, Value>) -> Extra {
        Extra {
            json,
            ..Extra::default()
        }
    }
}

/// Prints the result, with what the sanitizer found if it was asked; a failed check or a report makes it an error after
/// that.
pub fn show(
    title: &str,
    metrics: &Metrics,
    extra: impl Into<Extra>,
    sanitizer: Option<&Findings>,
    context: &Context,
) -> Result<(), CliError> {
    let extra = extra.into();
    let failed = metrics.check.as_ref().filter(|c| !c.passed);
    let error = failed.map(|check| CliError::Check {
        message: match &check.first_failure {
            Some(failure) => format!("check failed against {}: {failure}", check.reference),
            None => format!("check failed against {}", check.reference),
        },
    });
    let found = sanitizer.filter(|f| f.count > 0);
    let error = error.or_else(|| {
        let first = found?.reports.first()?;
        Some(CliError::Sanitizer {
            message: format!(
                "the sanitizer reports {}, the first: {first}",
                counted(found?.count, "case")
            ),
        })
    });
    if context.json {
        let mut object = metrics.json();
        if let Value::Object(object) = &mut object {
            object.extend(extra.json);
            if let Some(findings) = sanitizer {
                object.insert("sanitizer".to_owned(), json!(findings));
            }
            if let Some(error) = &error {
                object.insert("error".to_owned(), error.json());
            }
        }
        context.print_json(object)?;
    } else {
        let mut text = text(title, metrics) + &extra.text;
        if let Some(findings) = sanitizer {
            text += &format!("\n{findings}\n");
        }
        context.print(&text)?;
    }
    error.map_or(Ok(()), Err)
}

/// The outcome of a program's own expectations; `None` if it has none.
pub fn expectations(expected: bool, mismatches: &[Mismatch]) -> Option<Check> {
    let error = |m: &Mismatch| (f64::from(m.got) - f64::from(m.wanted)).abs();
    let largest = |of: &dyn Fn(&Mismatch) -> f64| mismatches.iter().map(of).fold(0.0, f64::max);
    expected.then(|| Check {
        passed: mismatches.is_empty(),
        max_abs_err: largest(&error),
        max_rel_err: largest(&|m| match m.wanted {
            0.0 => 0.0,
            wanted => error(m) / f64::from(wanted).abs(),
        }),
        reference: "the program's .expect, bit for bit".to_owned(),
        first_failure: (!mismatches.is_empty()).then(|| {
            let shown: Vec<String> = mismatches.iter().map(Mismatch::to_string).collect();
            shown.join("; ")
        }),
    })
}

fn percent(value: Option<f64>, of: &str) -> String {
    value.map_or_else(String::new, |p| format!("{p:.1} % of {of}"))
}

fn text(title: &str, m: &Metrics) -> String {
    let mut table = Table::new(&["", "", ""]);
    let mut row = |name: &str, value: String, note: String| {
        table.row([format!("  {name}"), value, note]);
    };
    if let Some(measured) = &m.measured {
        let clock = format!("at {} MHz", m.clock_hz / 1_000_000);
        row(
            "time",
            duration(measured.time_s),
            format!("{} cycles {clock}", grouped(measured.cycles)),
        );
    }
    if let Some((unit, time)) = &m.work.bound {
        let note = match (m.bound_cycles(), &m.measured, m.percent_of_bound()) {
            (Some(least), Some(measured), Some(percent)) => format!(
                "lower bound {} cycles ({unit}), achieved {}, {percent:.1} %",
                grouped(least),
                grouped(measured.cycles)
            ),
            _ => String::new(),
        };
        row("bound", format!("{unit} {}", duration(*time)), note);
    }
    if let Some(rate) = m.tflops().filter(|rate| *rate > 0.0) {
        let peak = m
            .peak_tflops
            .map_or_else(String::new, |p| format!("peak {p:.0}"));
        let share = percent(m.percent_of_peak(), &peak);
        row("tensor", format!("{rate:.1} TFLOP/s"), share);
    }
    if let (Some(measured), Some(rate)) = (&m.measured, m.hbm_tbps()) {
        // A unit in which the peak is at least 1.
        let (unit, scale) = match m.hbm_peak_tbps {
            1.0.. => ("TB/s", 1.0),
            1e-3.. => ("GB/s", 1e3),
            _ => ("MB/s", 1e6),
        };
        let rate = rate * scale;
        let share = percent(
            m.percent_of_hbm_peak(),
            &format!("peak {:.2}", m.hbm_peak_tbps * scale),
        );
        let moved = format!(
            "{share}; read {}, wrote {}",
            bytes(measured.hbm_read_bytes),
            bytes(measured.hbm_write_bytes)
        );
        row("hbm", format!("{rate:.2} {unit}"), moved);
    }
    if let Some(energy) = m.energy().filter(|e| e.total() > 0.0) {
        let share =
            |name: &str, part: f64| format!("{name} {:.0} %", 100.0 * part / energy.total());
        let shares = [
            share("hbm", energy.hbm),
            share("tensor", energy.ttu),
            share("vector", energy.tvp),
            share("static", energy.idle),
        ];
        row("energy", joules(energy.total()), shares.join(", "));
    }
    let split = match m.work.split_k {
        Some(n) if n > 1 => format!("K summed in {n} parts"),
        _ => String::new(),
    };
    row("program", bytes(m.program_bytes), split);
    let compiled = m
        .compile_s
        .map_or_else(String::new, |c| format!("compiled in {}", duration(c)));
    row("host", duration(m.wall_s), compiled);
    if let Some(check) = &m.check {
        let verdict = if check.passed { "passed" } else { "FAILED" };
        let errors = format!(
            "against {}; largest error {:.3e}",
            check.reference, check.max_abs_err
        );
        row("check", verdict.to_owned(), errors);
    }
    let mut out = format!("{title}\n{}", table.text());
    if let Some(measured) = &m.measured {
        out.push('\n');
        out.push_str(&stalls(&measured.stalls));
    }
    out
}

/// One line per engine kind: busy share, then where the rest went.
fn stalls(kinds: &[KindStalls]) -> String {
    let mut table = Table::new(&["  engine", ">count", "largest shares"]);
    for kind in kinds {
        let shares: Vec<String> = kind
            .ranked()
            .iter()
            .take(TOP_REASONS)
            .filter(|(_, share)| *share >= 0.0005)
            .map(|(reason, share)| format!("{} {:.1} %", reason.name(), share * 100.0))
            .collect();
        table.row([
            format!("  {}", kind.kind.name()),
            kind.instances.to_string(),
            shares.join(", "),
        ]);
    }
    table.text()
}
