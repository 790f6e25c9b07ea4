//! `mem`: one HBM channel on its own, exact to half a CK: a pattern or a trace, a mapping, a controller ([`show`] prints what came of it); and
//! the reference's table ([`table`]).
//!
//! Models nothing itself: [`crate::timing::hbm`] does. Invariant: what is refused names the flag's value and the limit.

mod show;
mod table;

pub use table::deviations;

use super::progress::Progress;
use super::{CliError, Context};
use crate::chip::{DEVICES, HbmDevice, Refresh, mapping};
use crate::timing::hbm::controller::{Config, Controller, Ecc, RowPolicy, Scheduler};
use crate::timing::hbm::device::Geometry;
use crate::timing::hbm::mapping::{Mapping, NAMED};
use crate::timing::hbm::patterns::{Pattern, Source};
use crate::timing::hbm::run::{Injection, Run, RunError};
use crate::timing::hbm::trace_file::{self, TraceFile, TraceFileError};
use clap::ValueEnum;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fmt::Write;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Requests of a pattern unless said otherwise.
const DEFAULT_REQUESTS: u64 = 100_000;
/// Most requests of a run.
const MAX_REQUESTS: u64 = 1_000_000_000_000;
/// Requests that a queue can hold.
const MAX_QUEUE: i64 = 32_767;
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
    /// Device: hbm3-6400 or hbm3e-9132; --set changes its numbers [default: that of --chip]
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Access pattern, see below
    #[arg(long, value_name = "P", conflicts_with_all = ["trace", "table"])]
    pattern: Option<String>,
    /// The pattern's argument: stride and rand in lines, streams in runs
    #[arg(
        long,
        value_name = "A",
        allow_negative_numbers = true,
        conflicts_with = "trace",
        default_value_t = 1
    )]
    arg: u64,
    /// Address mapping: a name, digits from low to high such as pc,bg,co:3,ba,sid,co,ro, `blocks` for blocks of hbm.interleave, or `chip`
    /// for its hbm.mapping
    #[arg(long, value_name = "M", default_value = "M1")]
    mapping: String,
    /// Refresh: none, ab, pb-blocking or pb-bank [default: that of --chip]
    #[arg(long, value_name = "MODE")]
    refresh: Option<String>,
    /// Offered load as a share of one request per CK, 0.000001 to 8; 0 = one read at a time [default: as fast as taken]
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
    /// Check every command against the timing table, and that every bank is refreshed in time
    #[arg(long)]
    check: bool,
    /// Requests from a file, also gzip, or `-` for stdin: `<CK> R|W <byte address>` per line, see below
    #[arg(long, value_name = "F")]
    trace: Option<PathBuf>,
    /// Write every command to a file, gzip if its name ends in .gz
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Rerun every row of the reference: ours, the reference's, the difference, and why rows deviate that lie outside their tolerance
    #[arg(long, conflicts_with_all = ["device", "arg", "mapping", "refresh", "rate", "requests", "read_queue", "write_queue", "low", "high",
        "scheduler", "row_policy", "admission", "ecc", "rfm", "check", "trace", "log"])]
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
        "\nTraces: a burst per line, such as `100.5 R 0x40`: the CK at which it arrives, which may end in .5 and never decreases; R or W, also in\n\
         lower case; the byte address within the channel, decimal or 0x, 32 B aligned. Empty lines and lines that begin with # are skipped.\n\
         Logs: a command per line: CK, name, pseudo channel, stack ID, bank group, bank, row, column (- where it has none).\n",
    );
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
        if context.changes_chip() {
            return Err(CliError::flag(
                "--table",
                "the reference has a device of its own; leave out --chip and --set",
            ));
        }
        return table::run(context);
    }
    if args.pattern.is_none() && args.trace.is_none() {
        return Err(CliError::usage(
            "one of --pattern P, --trace F or --table is needed; see `tilewright mem --help`",
        ));
    }
    if let Some(name) = args
        .device
        .as_deref()
        .filter(|name| !DEVICES.contains(name))
    {
        return Err(CliError::flag(
            "--device",
            format!("`{name}` is not one of {}", DEVICES.join(", ")),
        ));
    }
    let chip = context.chip_with_device(args.device.as_deref())?;
    let device = &chip.hbm.timing;
    let refresh = match &args.refresh {
        None => chip.hbm.refresh,
        Some(name) => Refresh::from_name(name).ok_or_else(|| {
            let names = Refresh::NAMES.join(", ");
            CliError::flag("--refresh", format!("`{name}` is not one of {names}"))
        })?,
    };
    let config = config(args, refresh)?;
    let injection = match args.rate {
        _ if args.trace.is_some() => Injection::Timed,
        None => Injection::Saturating,
        Some(0.0) => Injection::Single,
        Some(rate) if (RATES.0..=RATES.1).contains(&rate) => Injection::Rate(rate),
        Some(rate) => {
            return Err(CliError::flag(
                "--rate",
                format!(
                    "`{}` is neither 0 nor from {} to {}",
                    number(rate),
                    RATES.0,
                    RATES.1
                ),
            ));
        }
    };
    let geometry = Geometry::new(device);
    let list = match args.mapping.as_str() {
        "chip" => mapping::list(&chip.hbm),
        mapping::BLOCKS => mapping::blocks(&chip.hbm),
        given => mapping::named(given).to_owned(),
    };
    let mapping = Mapping::parse(&list, geometry)
        .map_err(|error| CliError::flag("--mapping", error.to_string()))?;
    let twice = args.admission == Admission::Split;
    if twice && args.trace.as_deref() == Some(Path::new(trace_file::STDIN)) {
        return Err(CliError::flag(
            "--admission",
            "split reads a trace twice, which stdin cannot be; name a file",
        ));
    }
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
    let mut log = match &args.log {
        None => None,
        Some(path) => {
            let same = |trace: &PathBuf| {
                let [a, b] = [trace, path].map(std::fs::canonicalize);
                a.is_ok_and(|a| b.is_ok_and(|b| a == b))
            };
            if args.trace.as_ref().is_some_and(same) {
                let message = format!("{} is the trace that is read", path.display());
                return Err(CliError::flag("--log", message));
            }
            let file = File::create(path).map_err(|e| CliError::io("create", path, &e))?;
            Some((path, Log::new(path, file)))
        }
    };
    let start = Instant::now();
    let outcome = {
        let _progress = Progress::start("simulating", context);
        let log = log.as_mut().map(|(_, log)| log.writer());
        setup
            .logged(Controller::new(device, config), source, second, log)
            .map_err(run_error)?
    };
    let wall_s = start.elapsed().as_secs_f64();
    if let Some((path, log)) = log {
        log.finish().map_err(|e| CliError::io("write", path, &e))?;
    }
    if let Some(path) = args.trace.as_ref().filter(|_| outcome.requests == 0) {
        return Err(CliError::file(
            path.display().to_string(),
            "no request: a trace has a line `<CK> R|W <byte address>` at least",
        ));
    }
    show::run(
        &show::Shown {
            args,
            chip: &chip,
            config: &config,
            digits: &list,
            outcome: &outcome,
            wall_s,
        },
        context,
    )
}

/// Where the log of commands goes.
enum Log {
    Plain(BufWriter<File>),
    Packed(BufWriter<GzEncoder<File>>),
}

impl Log {
    fn new(path: &Path, file: File) -> Log {
        match path.extension().is_some_and(|end| end == "gz") {
            // Lines are alike: the fastest level packs them nearly as well. The packer wants long writes.
            true => Log::Packed(BufWriter::with_capacity(
                1 << 20,
                GzEncoder::new(file, Compression::fast()),
            )),
            false => Log::Plain(BufWriter::with_capacity(1 << 16, file)),
        }
    }

    fn writer(&mut self) -> &mut dyn std::io::Write {
        match self {
            Log::Plain(file) => file,
            Log::Packed(file) => file,
        }
    }

    fn finish(self) -> std::io::Result<()> {
        match self {
            Log::Plain(mut file) => file.flush(),
            Log::Packed(file) => file.into_inner()?.finish()?.flush(),
        }
    }
}

/// A number as short as it can be told: neither hundreds of zeros nor an exponent where there is no need.
fn number(x: f64) -> String {
    match x == 0.0 || (1e-6..1e9).contains(&x.abs()) || !x.is_finite() {
        true => x.to_string(),
        false => format!("{x:e}"),
    }
}

fn config(args: &Args, refresh: Refresh) -> Result<Config, CliError> {
    for (flag, share) in [("--low", args.low), ("--high", args.high)] {
        if !(0.0..=1.0).contains(&share) {
            let share = number(share);
            return Err(CliError::flag(
                flag,
                format!("`{share}` is not a share from 0 to 1"),
            ));
        }
    }
    if args.low > args.high {
        return Err(CliError::flag(
            "--low",
            format!("`{}` is above --high, {}", args.low, args.high),
        ));
    }
    let counted = |text: &str, name: &str, limit: u32| {
        let count = text.strip_prefix(name)?.strip_prefix(':')?.parse().ok()?;
        (1..=limit).contains(&count).then_some(count)
    };
    let row_policy = match args.row_policy.as_str() {
        "open" => RowPolicy::Open,
        text => RowPolicy::Close(counted(text, "close", 1_000_000).ok_or_else(|| {
            CliError::flag(
                "--row-policy",
                format!("`{text}` is neither open nor close:N with N from 1 to 1000000"),
            )
        })?),
    };
    let ecc = match args.ecc.as_str() {
        "none" => Ecc::None,
        text => Ecc::Sideband {
            check_ck: counted(text, "sideband", 1000).ok_or_else(|| {
                CliError::flag(
                    "--ecc",
                    format!("`{text}` is neither none nor sideband:N with N from 1 to 1000 CK"),
                )
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
        Pattern::parse(pattern).map_err(|error| CliError::flag("--pattern", error.to_string()))?;
    let requests = pattern
        .generate(args.arg, geometry)
        .map_err(|error| CliError::flag("--arg", error.to_string()))?;
    Ok(Source::Pattern(requests))
}

fn trace_error(error: TraceFileError) -> CliError {
    match error {
        TraceFileError::Open { path, error } => CliError::flag(
            "--trace",
            format!("cannot open {}: {error}", path.display()),
        ),
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
        RunError::Log(error) => CliError::flag("--log", format!("cannot write: {error}")),
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
