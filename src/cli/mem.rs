//! `mem`: one HBM channel on its own, exact to half a CK: a pattern or a trace, a mapping, a controller; and the reference's table.
//!
//! Models nothing itself: [`crate::timing::hbm`] does. Invariant: what is refused names the flag's value and the limit.

use super::progress::Progress;
use super::{CliError, Context};
use crate::chip::{HbmDevice, Refresh, mapping};
use crate::timing::hbm::controller::{Config, Controller, Ecc, RowPolicy, Scheduler};
use crate::timing::hbm::device::Geometry;
use crate::timing::hbm::mapping::{Mapping, NAMED};
use crate::timing::hbm::patterns::{Pattern, Source};
use crate::timing::hbm::reference::{self, DEVIATIONS, Figures, Row, Table};
use crate::timing::hbm::run::{Injection, Outcome, Run, RunError};
use crate::timing::hbm::trace_file::{TraceFile, TraceFileError};
use clap::ValueEnum;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Instant;

/// Requests of a pattern unless said otherwise.
const DEFAULT_REQUESTS: u64 = 100_000;
/// Most requests of a run.
const MAX_REQUESTS: u64 = 1_000_000_000_000;
/// Requests that a queue can hold.
const MAX_QUEUE: i64 = 4096;
/// Offered rates, in requests per CK; the source offers at most four per half CK.
const RATES: (f64, f64) = (1e-6, 8.0);

/// Run one HBM channel on its own: a pattern or a trace against an exact controller and device
///
/// Latencies run to the end of a read's data: mean, p50, p95 and p99 from acceptance by the controller, source latencies from arrival
/// at the source. Utilisation is requests per CK over a peak of one. The model is exact to half a CK against Ramulator 2.1's HBM3
/// controller (`mem --table`).
#[derive(clap::Args)]
#[command(after_long_help = after_help())]
pub struct Args {
    /// Device: hbm3-6400 or hbm3e-9132 [default: that of --chip]
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Access pattern, see below
    #[arg(long, value_name = "P", required_unless_present_any = ["trace", "table"], conflicts_with_all = ["trace", "table"])]
    pattern: Option<String>,
    /// The pattern's argument: stride and rand in lines, streams in runs
    #[arg(
        long,
        value_name = "A",
        allow_negative_numbers = true,
        default_value_t = 1
    )]
    arg: u64,
    /// Address mapping: a name, digits from low to high such as pc,bg,co:3,ba,sid,co,ro, or `chip` for its hbm.mapping
    #[arg(long, value_name = "M", default_value = "M1")]
    mapping: String,
    /// Refresh: none, ab, pb-blocking or pb-bank [default: that of --chip]
    #[arg(long, value_name = "MODE")]
    refresh: Option<String>,
    /// Offered load as a share of one request per CK; 0 = one read at a time [default: as fast as taken]
    #[arg(
        long,
        value_name = "R",
        allow_negative_numbers = true,
        conflicts_with = "trace"
    )]
    rate: Option<f64>,
    /// Requests to run [default: 100000, or the whole trace]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(1..=MAX_REQUESTS))]
    requests: Option<u64>,
    /// Reads that can wait in the controller
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=MAX_QUEUE))]
    read_queue: u32,
    /// Writes that can wait in the controller
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=MAX_QUEUE))]
    write_queue: u32,
    /// Share of the write queue below which writing stops
    #[arg(
        long,
        value_name = "X",
        allow_negative_numbers = true,
        default_value_t = 0.2
    )]
    low: f64,
    /// Share of the write queue above which writing starts
    #[arg(
        long,
        value_name = "X",
        allow_negative_numbers = true,
        default_value_t = 0.8
    )]
    high: f64,
    /// First ready, first come; -rowhit never closes a row past an older hit
    #[arg(long, value_enum, default_value = "frfcfs-rowhit")]
    scheduler: SchedulerName,
    /// open, or close:N to close a row after N accesses
    #[arg(long, value_name = "POLICY", default_value = "open")]
    row_policy: String,
    /// Whether reads and writes wait for each other before they enter the controller
    #[arg(long, value_enum, default_value = "in-order")]
    admission: Admission,
    /// none, or sideband:N: reads end N CK later for checking; HBM3's check bits have pins of their own and cost no bandwidth
    #[arg(long, value_name = "ECC", default_value = "none")]
    ecc: String,
    /// Refresh management of a bank after this many activates [default: off]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rfm: Option<u32>,
    /// Check every command against the timing table
    #[arg(long)]
    check: bool,
    /// Requests from a file, also gzip: `<CK> R|W <byte address>` per line
    #[arg(long, value_name = "F", conflicts_with = "table")]
    trace: Option<PathBuf>,
    /// Rerun every row of the reference and show ours, the reference's, the difference
    #[arg(long)]
    table: bool,
}

fn after_help() -> String {
    let mut text = "Patterns:\n".to_owned();
    for (_, name, what) in Pattern::ALL {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name:10} {what}");
    }
    text.push_str("\nMappings, digits from low to high (`:n` takes n bits, `^` xors):\n");
    for (name, digits) in NAMED {
        let _ = writeln!(text, "  {name:10} {digits}");
    }
    text.push_str(
        "\nExamples:\n  tilewright mem --device hbm3-6400 --pattern seq_rd --mapping M1 --refresh none\n  \
         tilewright mem --pattern rand --arg 2 --mapping M5 --rate 0.4\n  tilewright mem --trace requests.txt.gz --check\n",
    );
    text
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SchedulerName {
    Frfcfs,
    FrfcfsRowhit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Admission {
    /// All in one line: a full queue holds up both
    InOrder,
    /// A port each
    Split,
}

/// Runs the subcommand.
pub fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    if args.table {
        return table(context);
    }
    let chip = context.chip_with_device(args.device.as_deref())?;
    let device = &chip.hbm.timing;
    let refresh = match &args.refresh {
        None => chip.hbm.refresh,
        Some(name) => Refresh::from_name(name).ok_or_else(|| {
            let names = Refresh::NAMES.join(", ");
            CliError::usage(format!("--refresh: `{name}` is not one of {names}"))
        })?,
    };
    let config = config(args, refresh)?;
    let injection = match args.rate {
        _ if args.trace.is_some() => Injection::Timed,
        None => Injection::Saturating,
        Some(0.0) => Injection::Single,
        Some(rate) if (RATES.0..=RATES.1).contains(&rate) => Injection::Rate(rate),
        Some(rate) => {
            return Err(CliError::usage(format!(
                "--rate: `{rate}` is neither 0 nor from {} to {}",
                RATES.0, RATES.1
            )));
        }
    };
    let geometry = Geometry::new(device);
    let list = match args.mapping.as_str() {
        "chip" => mapping::list(&chip.hbm),
        given => given.to_owned(),
    };
    let mapping = Mapping::parse(&list, geometry)
        .map_err(|error| CliError::usage(format!("--mapping: {error}")))?;
    let source = source(args, device, &geometry)?;
    let second = match args.admission {
        Admission::InOrder => None,
        Admission::Split => Some(self::source(args, device, &geometry)?),
    };
    let setup = Run {
        device,
        mapping: &mapping,
        injection,
        check: args.check,
        dense: false,
        requests: match (args.requests, &args.trace) {
            (Some(requests), _) => requests,
            (None, Some(_)) => MAX_REQUESTS,
            (None, None) => DEFAULT_REQUESTS,
        },
    };
    let start = Instant::now();
    let outcome = {
        let _progress = Progress::start("simulating", context);
        setup
            .go(Controller::new(device, config), source, second)
            .map_err(run_error)?
    };
    let wall_s = start.elapsed().as_secs_f64();
    show(
        args,
        device,
        &chip.hbm.device,
        &config,
        &outcome,
        wall_s,
        context,
    )
}

fn config(args: &Args, refresh: Refresh) -> Result<Config, CliError> {
    for (flag, share) in [("--low", args.low), ("--high", args.high)] {
        if !(0.0..=1.0).contains(&share) {
            return Err(CliError::usage(format!(
                "{flag}: `{share}` is not a share from 0 to 1"
            )));
        }
    }
    if args.low > args.high {
        return Err(CliError::usage(format!(
            "--low: `{}` is above --high, {}",
            args.low, args.high
        )));
    }
    let counted = |text: &str, name: &str, limit: u32| {
        let count = text.strip_prefix(name)?.strip_prefix(':')?.parse().ok()?;
        (1..=limit).contains(&count).then_some(count)
    };
    let row_policy = match args.row_policy.as_str() {
        "open" => RowPolicy::Open,
        text => RowPolicy::Close(counted(text, "close", 1_000_000).ok_or_else(|| {
            CliError::usage(format!(
                "--row-policy: `{text}` is neither open nor close:N with N from 1 to 1000000"
            ))
        })?),
    };
    let ecc = match args.ecc.as_str() {
        "none" => Ecc::None,
        text => Ecc::Sideband {
            check_ck: counted(text, "sideband", 1000).ok_or_else(|| {
                CliError::usage(format!(
                    "--ecc: `{text}` is neither none nor sideband:N with N from 1 to 1000 CK"
                ))
            })?,
        },
    };
    Ok(Config {
        read_queue: args.read_queue,
        write_queue: args.write_queue,
        low: args.low,
        high: args.high,
        scheduler: match args.scheduler {
            SchedulerName::Frfcfs => Scheduler::FrFcfs,
            SchedulerName::FrfcfsRowhit => Scheduler::FrFcfsRowHit,
        },
        row_policy,
        refresh,
        rfm: args.rfm,
        ecc,
    })
}

fn source(args: &Args, device: &HbmDevice, geometry: &Geometry) -> Result<Source, CliError> {
    if let Some(path) = &args.trace {
        let bytes = u64::from(device.burst_bytes);
        let trace = TraceFile::open(path, device.channel_bytes(), bytes).map_err(trace_error)?;
        return Ok(Source::Trace(Box::new(trace)));
    }
    let pattern = args.pattern.as_deref().unwrap_or_default();
    let pattern =
        Pattern::parse(pattern).map_err(|error| CliError::usage(format!("--pattern: {error}")))?;
    let requests = pattern
        .generate(args.arg, geometry)
        .map_err(|error| CliError::usage(format!("--arg: {error}")))?;
    Ok(Source::Pattern(requests))
}

fn trace_error(error: TraceFileError) -> CliError {
    match error {
        TraceFileError::Open { path, error } => CliError::io("open", &path, &error),
        TraceFileError::Line {
            path,
            line,
            problem,
        } => CliError::file(format!("{}:{line}", path.display()), problem),
    }
}

fn run_error(error: RunError) -> CliError {
    match error {
        RunError::Trace(error) => trace_error(error),
        RunError::Stalled { .. } => CliError::Run {
            code: "stalled",
            exit: 4,
            place: None,
            message: error.to_string(),
            detail: None,
        },
        RunError::Illegal(_) => CliError::Run {
            code: "illegal_command",
            exit: 1,
            place: None,
            message: error.to_string(),
            detail: None,
        },
    }
}

fn show(
    args: &Args,
    device: &HbmDevice,
    device_name: &str,
    config: &Config,
    outcome: &Outcome,
    wall_s: f64,
    context: &Context,
) -> Result<(), CliError> {
    let figures = Figures::of(outcome, device);
    let time_s = outcome.cycles_ck() * f64::from(device.tck_ps) * 1e-12;
    let gbps = match time_s > 0.0 {
        true => outcome.requests as f64 * f64::from(device.burst_bytes) / time_s / 1e9,
        false => 0.0,
    };
    let totals = &outcome.totals;
    let name = match &args.trace {
        Some(path) => path.display().to_string(),
        None => args.pattern.clone().unwrap_or_default(),
    };
    if context.json {
        let mut object = json!({
            "device": device_name,
            "pattern": name,
            "arg": args.arg,
            "mapping": args.mapping,
            "refresh": config.refresh.name(),
            "requests": outcome.requests,
            "reads": outcome.reads,
            "writes": outcome.writes,
            "utilisation": figures.utilisation,
            "gbps": gbps,
            "row_hit": figures.row_hit,
            "mean_latency_ns": figures.mean_ns,
            "p50_ns": figures.p50_ns,
            "p95_ns": figures.p95_ns,
            "p99_ns": figures.p99_ns,
            "source_mean_latency_ns": figures.source_mean_ns,
            "source_p99_ns": figures.source_p99_ns,
            "cycles_ck": figures.cycles_ck,
            "row_misses": totals.row_misses,
            "row_conflicts": totals.row_conflicts,
            "activates": totals.activates,
            "refreshes": totals.refreshes,
            "refresh_managements": totals.refresh_managements,
            "forwarded": totals.forwarded,
            "merged": totals.merged,
            "wall_s": wall_s,
            "requests_per_wall_s": outcome.requests as f64 / wall_s.max(1e-9),
        });
        if let Some(commands) = outcome.checked_commands {
            object["check"] = json!({ "passed": true, "commands": commands });
        }
        return context.print_json(object);
    }
    let mut out = format!(
        "{device_name}, {name}, mapping {}, refresh {}: {} reads, {} writes\n",
        args.mapping,
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
    if let Some(commands) = outcome.checked_commands {
        line("check", format!("{commands} commands, all legal"));
    }
    context.print(&out)?;
    context.note(&format!(
        "{:.2} million requests a second of wall time",
        outcome.requests as f64 / wall_s.max(1e-9) / 1e6
    ));
    Ok(())
}

/// Every row of the reference: ours, theirs, the difference.
fn table(context: &Context) -> Result<(), CliError> {
    let device = HbmDevice::preset(reference::DEVICE)?;
    let rows: Vec<Row> = [Table::Saturating, Table::Curve, Table::Settings]
        .into_iter()
        .flat_map(Row::all)
        .collect();
    let compared: Vec<_> = {
        let _progress = Progress::start("simulating", context);
        rows.par_iter().map(|row| row.compare(&device)).collect()
    };
    let known = |name: &str| DEVIATIONS.iter().find(|(row, _)| *row == name);
    let missing: Vec<String> = rows
        .iter()
        .zip(&compared)
        .filter(|(row, c)| c.miss.is_some() && known(&row.name()).is_none())
        .map(|(row, _)| row.name())
        .collect();
    let exact = rows
        .iter()
        .zip(&compared)
        .filter(|(row, c)| c.ours.cycles_ck == row.reference.cycles_ck)
        .count();
    let of = |f: &Figures| {
        json!({
            "cycles_ck": f.cycles_ck, "utilisation": f.utilisation, "row_hit": f.row_hit, "mean_latency_ns": f.mean_ns,
            "p50_ns": f.p50_ns, "p95_ns": f.p95_ns, "p99_ns": f.p99_ns, "source_mean_latency_ns": f.source_mean_ns, "source_p99_ns": f.source_p99_ns,
        })
    };
    if context.json {
        let list: Vec<Value> = rows
            .iter()
            .zip(&compared)
            .map(|(row, c)| {
                json!({
                    "row": row.name(),
                    "table": row.table.name(),
                    "ours": of(&c.ours),
                    "reference": of(&row.reference),
                    "utilisation_difference": reference::relative(c.ours.utilisation, row.reference.utilisation),
                    "within": c.miss.is_none(),
                    "deviation": known(&row.name()).map(|(_, why)| *why),
                })
            })
            .collect();
        context.print_json(json!({
            "reference": reference::SOURCE,
            "rows": list,
            "exact": exact,
            "outside": missing,
        }))?;
    } else {
        let mut out = format!(
            "{}\n{:62} {:>11} {:>11} {:>8} {:>9} {:>9} {:>9} {:>9}\n",
            reference::SOURCE,
            "row",
            "CK",
            "reference",
            "diff",
            "mean ns",
            "reference",
            "p99 ns",
            "reference"
        );
        for (row, c) in rows.iter().zip(&compared) {
            let (ours, theirs) = (&c.ours, &row.reference);
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "{:62} {:>11} {:>11} {:>+7.2}% {:>9.1} {:>9.1} {:>9.1} {:>9.1}{}",
                format!("{} {}", row.table.name(), row.name()),
                ours.cycles_ck,
                theirs.cycles_ck,
                100.0 * reference::relative(ours.cycles_ck, theirs.cycles_ck),
                ours.mean_ns,
                theirs.mean_ns,
                ours.p99_ns,
                theirs.p99_ns,
                c.miss.map_or_else(String::new, |(what, by)| format!(
                    "  outside: {what} {:+.1}%",
                    100.0 * by
                )),
            );
        }
        let _ = writeln!(
            out,
            "{} rows, {exact} with the same number of CK, {} outside their tolerance",
            rows.len(),
            compared.iter().filter(|c| c.miss.is_some()).count()
        );
        context.print(&out)?;
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(CliError::Check {
            message: format!("outside their tolerance: {}", missing.join("; ")),
        }),
    }
}
