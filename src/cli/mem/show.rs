//! What `mem` prints of a run: its figures and, as JSON, every setting that it came from.

use super::super::{CliError, Context};
use super::{Admission, Args};
use crate::chip::fields::{DEVICE_PREFIX, FIELDS, Value as Field};
use crate::chip::{Chip, Refresh};
use crate::timing::hbm::controller::{Config, Ecc, RowPolicy, Scheduler};
use crate::timing::hbm::reference::Figures;
use crate::timing::hbm::run::Outcome;
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// A run and what it came from.
pub struct Shown<'a> {
    pub args: &'a Args,
    pub chip: &'a Chip,
    pub config: &'a Config,
    /// The mapping's digits and terms.
    pub digits: &'a str,
    pub outcome: &'a Outcome,
    pub wall_s: f64,
}

/// Every setting of a run, with the flags' words: with them, the pattern or trace and its requests, the run can be made again.
fn settings(shown: &Shown<'_>) -> Value {
    let Shown { args, config, .. } = shown;
    let timing: Map<String, Value> = FIELDS
        .iter()
        .filter(|field| field.of_device())
        .filter_map(|field| match (field.get)(shown.chip) {
            Field::Int(number) => {
                Some((field.key[DEVICE_PREFIX.len()..].to_owned(), number.into()))
            }
            _ => None,
        })
        .collect();
    let units = "tck in ps, *_bus in half CK, other times in CK, burst in bytes";
    json!({
        "injection": match args.rate {
            _ if args.trace.is_some() => "trace",
            None => "saturating",
            Some(0.0) => "one at a time",
            Some(_) => "rate",
        },
        "rate": args.rate,
        "requests_limit": args.requests,
        "mapping_digits": shown.digits,
        "admission": match args.admission {
            Admission::InOrder => "in-order",
            Admission::Split => "split",
        },
        "read_queue": config.read_queue,
        "write_queue": config.write_queue,
        "low": config.low,
        "high": config.high,
        "scheduler": match config.scheduler {
            Scheduler::FrFcfs => "frfcfs",
            Scheduler::FrFcfsRowHit => "frfcfs-rowhit",
        },
        "row_policy": match config.row_policy {
            RowPolicy::Open => "open".to_owned(),
            RowPolicy::Close(n) => format!("close:{n}"),
        },
        "ecc": match config.ecc {
            Ecc::None => "none".to_owned(),
            Ecc::Sideband { check_ck } => format!("sideband:{check_ck}"),
        },
        "rfm": config.rfm,
        "check": args.check,
        "timing": timing,
        "timing_units": units,
    })
}

/// Prints a run.
pub fn run(shown: &Shown<'_>, context: &Context) -> Result<(), CliError> {
    let Shown {
        args,
        config,
        outcome,
        wall_s,
        ..
    } = *shown;
    let (device, device_name) = (&shown.chip.hbm.timing, &shown.chip.hbm.device);
    let figures = Figures::of(outcome, device);
    let time_s = outcome.cycles_ck() * f64::from(device.tck_ps) * 1e-12;
    let gbps = match time_s > 0.0 {
        true => outcome.requests as f64 * f64::from(device.burst_bytes) / time_s / 1e9,
        false => 0.0,
    };
    let stepped = outcome.requests - outcome.passed;
    let per_wall_s = |requests: u64| requests as f64 / wall_s.max(1e-9);
    // Latencies are of reads: without one there is none.
    let ns = |figure: f64| (outcome.reads > 0).then_some(figure);
    let totals = &outcome.totals;
    let name = match &args.trace {
        Some(path) => path.display().to_string(),
        None => args.pattern.clone().unwrap_or_default(),
    };
    if context.json {
        let mut object = json!({
            "device": device_name,
            "pattern": name,
            "arg": args.trace.is_none().then_some(args.arg),
            "mapping": args.mapping,
            "refresh": config.refresh.name(),
            "requests": outcome.requests,
            "reads": outcome.reads,
            "writes": outcome.writes,
            "utilisation": figures.utilisation,
            "gbps": gbps,
            "row_hit": figures.row_hit,
            "mean_latency_ns": ns(figures.mean_ns),
            "p50_ns": ns(figures.p50_ns),
            "p95_ns": ns(figures.p95_ns),
            "p99_ns": ns(figures.p99_ns),
            "source_mean_latency_ns": ns(figures.source_mean_ns),
            "source_p99_ns": ns(figures.source_p99_ns),
            "cycles_ck": figures.cycles_ck,
            "row_misses": totals.row_misses,
            "row_conflicts": totals.row_conflicts,
            "activates": totals.activates,
            "refreshes": totals.refreshes,
            "refresh_managements": totals.refresh_managements,
            "forwarded": totals.forwarded,
            "merged": totals.merged,
            "wall_s": wall_s,
            "requests_per_wall_s": per_wall_s(outcome.requests),
            "passed_by_periods": outcome.passed,
            "stepped_per_wall_s": per_wall_s(stepped),
            "settings": settings(shown),
        });
        if let Some(checked) = outcome.checked {
            object["check"] = json!({
                "passed": true, "commands": checked.commands, "skipped_refreshes": checked.skipped_refreshes,
            });
        }
        return context.print_json(object);
    }
    let mut out = format!(
        "{device_name}, {name}, mapping {}{}, refresh {}: {} reads, {} writes\n",
        args.mapping,
        match shown.digits == args.mapping {
            true => String::new(),
            false => format!(" = {}", shown.digits),
        },
        config.refresh.name(),
        outcome.reads,
        outcome.writes
    );
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  {name:16} {value}");
    };
    line(
        "utilisation",
        format!("{:.4} of peak, {gbps:.2} GB/s", figures.utilisation),
    );
    line("time", format!("{} CK", figures.cycles_ck));
    line(
        "row hits",
        format!(
            "{:.4}; {} misses, {} conflicts",
            figures.row_hit, totals.row_misses, totals.row_conflicts
        ),
    );
    if outcome.reads > 0 {
        line(
            "read latency",
            format!(
                "mean {:.1} ns, p50 {:.1}, p95 {:.1}, p99 {:.1}",
                figures.mean_ns, figures.p50_ns, figures.p95_ns, figures.p99_ns
            ),
        );
        line(
            "from the source",
            format!(
                "mean {:.1} ns, p99 {:.1}",
                figures.source_mean_ns, figures.source_p99_ns
            ),
        );
    }
    if totals.forwarded + totals.merged > 0 {
        line(
            "write queue",
            format!(
                "{} reads answered, {} writes merged",
                totals.forwarded, totals.merged
            ),
        );
    }
    if let Some(checked) = outcome.checked {
        let mut text = format!("{} commands, all legal", checked.commands);
        if config.refresh != Refresh::None {
            text.push_str(", refreshes in time");
        }
        if checked.skipped_refreshes > 0 {
            let _ = write!(
                text,
                "; {} refreshes in idle rounds jumped over, like the checked rounds around them",
                checked.skipped_refreshes
            );
        }
        line("check", text);
    }
    context.print(&out)?;
    let million = |requests: u64| per_wall_s(requests) / 1e6;
    context.note(&match outcome.passed {
        0 => format!(
            "{:.2} million requests a second of wall time",
            million(stepped)
        ),
        passed => format!(
            "{:.2} million requests a second of wall time: {stepped} stepped through at {:.2} million a second, {passed} passed in periods that repeat",
            million(outcome.requests),
            million(stepped)
        ),
    });
    Ok(())
}
