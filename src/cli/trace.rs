//! `trace`: what a recorded run says: where every engine's time went, what program lines waited for, other tools' formats.

use super::{CliError, Context};
use crate::report::table::{duration, grouped};
use crate::report::{Table, by_engine, by_kind, by_line, stalls};
use crate::sim::{Clock, Ps};
use crate::trace::export::{self, engine_name, unit_name};
use crate::trace::file::{self, Recording};
use crate::trace::{Reason, Trace};
use clap::ValueEnum;
use serde_json::{Value, json};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Read a recorded run: tables of stalls and lines, or another tool's format
#[derive(clap::Args)]
pub struct Args {
    /// A directory that `run --trace` wrote
    #[arg(value_name = "DIR", required_unless_present = "reasons")]
    dir: Option<PathBuf>,
    /// List what engines and operations can wait for, with meanings
    #[arg(long, conflicts_with = "dir")]
    reasons: bool,
    /// Busy and stalled time of every kind of engine, of every engine with -v (what is shown without flags)
    #[arg(long)]
    stalls: bool,
    /// Operations by the program line that pushed them: time and waits
    #[arg(long)]
    lines: bool,
    /// Write the recording in another form
    #[arg(long, value_enum, value_name = "FORMAT")]
    to: Option<Format>,
    /// File for --to [default: stdout]
    #[arg(short, long, value_name = "F", requires = "to")]
    output: Option<PathBuf>,
}

/// Other forms of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For ui.perfetto.dev; 1 ps is written as 1 ns.
    Perfetto,
    /// One JSON object a line.
    Jsonl,
    /// One line a span or operation, in order of time.
    Text,
}

pub fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let Some(dir) = &args.dir else {
        return list_reasons(context);
    };
    if let Err(error) = std::fs::metadata(dir) {
        return Err(CliError::io("read", dir, &error));
    }
    let recording = file::read(dir)?;
    let clock = clock(&recording.trace, dir)?;
    if let Some(format) = args.to {
        return convert(&recording, clock, format, args.output.as_deref(), context);
    }
    let stalls = args.stalls || !args.lines;
    if context.json {
        return context.print_json(tables_json(&recording, stalls, args.lines));
    }
    let trace = &recording.trace;
    let program = trace.meta.get("program").and_then(Value::as_str);
    let chip = trace.meta.get("chip").and_then(Value::as_str);
    let mut out = format!(
        "{} on {}: {}, {} cycles\n",
        program.unwrap_or("unnamed program"),
        chip.unwrap_or("unnamed chip"),
        duration(trace.end.seconds()),
        grouped(clock.next_cycle(trace.end)),
    );
    if stalls {
        out.push('\n');
        out.push_str(&stall_table(trace, context.verbosity > 1));
    }
    if args.lines {
        out.push('\n');
        out.push_str(&line_table(&recording, clock));
    }
    context.print(&out)
}

/// Every reason with its meaning.
fn list_reasons(context: &Context) -> Result<(), CliError> {
    if context.json {
        let reason = |r: Reason| json!({ "name": r.name(), "doc": r.doc() });
        let all: Vec<Value> = Reason::ALL.into_iter().map(reason).collect();
        return context.print_json(json!({ "reasons": all }));
    }
    context.print(&meanings(Reason::ALL))
}

/// A line per reason: name and meaning.
fn meanings(reasons: impl IntoIterator<Item = Reason>) -> String {
    let mut table = Table::new(&["", ""]);
    for reason in reasons {
        table.row([format!("  {}", reason.name()), reason.doc().to_owned()]);
    }
    table.text()
}

/// The tile clock of the run.
fn clock(trace: &Trace, dir: &Path) -> Result<Clock, CliError> {
    let hz = trace.meta.get("clock_hz").and_then(Value::as_u64);
    hz.and_then(Clock::try_new).ok_or_else(|| {
        let place = dir.join("meta.json").display().to_string();
        CliError::file(place, "`clock_hz` is missing or no clock rate")
    })
}

fn convert(
    recording: &Recording,
    clock: Clock,
    format: Format,
    output: Option<&Path>,
    context: &Context,
) -> Result<(), CliError> {
    let write = |out: &mut dyn Write| match format {
        Format::Perfetto => export::perfetto(recording, out),
        Format::Jsonl => export::jsonl(recording, out),
        Format::Text => export::text(recording, clock, out),
    };
    let Some(path) = output else {
        if context.json {
            return Err(CliError::usage(
                "--to on stdout leaves no room for --json; give -o F",
            ));
        }
        let mut out = BufWriter::new(std::io::stdout().lock());
        return match write(&mut out).and_then(|()| out.flush()) {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => {
                // What is still buffered has nowhere to go.
                let _ = out.into_parts();
                Err(CliError::StdoutClosed)
            }
            Err(e) => Err(CliError::usage(format!("cannot write to stdout: {e}"))),
            Ok(()) => Ok(()),
        };
    };
    let io = |e: std::io::Error| CliError::io("write", path, &e);
    let mut out = BufWriter::new(std::fs::File::create(path).map_err(io)?);
    write(&mut out).and_then(|()| out.flush()).map_err(io)?;
    if context.json {
        let (spans, ops) = (recording.trace.spans.len(), recording.trace.ops.len());
        return context.print_json(json!({ "output": path, "spans": spans, "operations": ops }));
    }
    context.note(&format!("wrote {}", path.display()));
    Ok(())
}

/// Name, engines, and shares by reason.
type Row = (String, usize, Vec<(Reason, f64)>);

/// A row per engine kind (per engine if `each`), a column per reason that occurs; every row sums to 100.0 %.
fn stall_table(trace: &Trace, each: bool) -> String {
    let rows: Vec<Row> = match each {
        false => by_kind(trace)
            .into_iter()
            .map(|k| (k.kind.name().to_owned(), k.instances, k.fractions))
            .collect(),
        true => by_engine(trace)
            .into_iter()
            .map(|(e, f)| (format!("{} {}", unit_name(e.unit), engine_name(e)), 1, f))
            .collect(),
    };
    let occurs = |reason: &Reason| {
        rows.iter()
            .any(|(_, _, f)| f.iter().any(|(r, _)| r == reason))
    };
    let reasons: Vec<Reason> = Reason::ALL.into_iter().filter(occurs).collect();
    let mut headings = vec!["engine".to_owned(), ">count".to_owned()];
    headings.extend(reasons.iter().map(|r| format!(">{}", r.name())));
    headings.push(">sum".to_owned());
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    let mut table = Table::new(&headings);
    for (name, count, fractions) in rows {
        let shares: Vec<f64> = fractions.iter().map(|(_, f)| *f).collect();
        let tenths = stalls::tenths(&shares);
        let shown = |tenths: u32| format!("{}.{}", tenths / 10, tenths % 10);
        let cell = |reason: &Reason| {
            let at = fractions.iter().position(|(r, _)| r == reason);
            at.map_or_else(String::new, |i| shown(tenths[i]))
        };
        let mut row = vec![name, count.to_string()];
        row.extend(reasons.iter().map(cell));
        row.push(shown(tenths.iter().sum()));
        table.row(row);
    }
    let per = match each {
        true => "engine",
        false => "engine kind, averaged over its engines",
    };
    format!(
        "Percent of the run by {per}\n{}\n{}",
        table.text(),
        meanings(reasons)
    )
}

fn line_table(recording: &Recording, clock: Clock) -> String {
    let mut table = Table::new(&[
        "line",
        ">pushes",
        ">busy",
        ">waiting",
        ">queued",
        "waits",
        "instruction",
    ]);
    let cycles = |ps: u64| grouped(clock.cycle_at(Ps(ps)));
    for line in by_line(recording) {
        let (busy, queued) = (line.time_ps(Reason::Busy), line.time_ps(Reason::Queue));
        let mut waits: Vec<(Reason, u64)> = line
            .times_ps
            .iter()
            .copied()
            .filter(|(r, _)| *r != Reason::Busy && *r != Reason::Queue)
            .collect();
        waits.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
        let waiting = waits.iter().map(|(_, time)| time).sum();
        let shown: Vec<String> = waits
            .iter()
            .take(3)
            .map(|(reason, time)| format!("{} {}", reason.name(), cycles(*time)))
            .collect();
        table.row([
            line.place,
            grouped(line.count),
            cycles(busy),
            cycles(waiting),
            cycles(queued),
            shown.join(", "),
            line.text,
        ]);
    }
    format!(
        "Cycles of operations by program line, summed over all units\n{}",
        table.text()
    )
}

fn tables_json(recording: &Recording, with_stalls: bool, with_lines: bool) -> Value {
    let trace = &recording.trace;
    let mut out = json!({ "meta": trace.meta, "time_s": trace.end.seconds() });
    if with_stalls {
        out["stalls"] = stalls::json(&by_kind(trace));
        let engines = by_engine(trace).into_iter().map(|(e, fractions)| {
            let shares: serde_json::Map<String, Value> = fractions
                .into_iter()
                .map(|(r, f)| (r.name().to_owned(), json!(f)))
                .collect();
            json!({ "unit": unit_name(e.unit), "engine": engine_name(e), "stalls": shares })
        });
        out["engines"] = engines.collect();
    }
    if with_lines {
        out["lines"] = by_line(recording).iter().map(|l| l.json()).collect();
    }
    out
}
