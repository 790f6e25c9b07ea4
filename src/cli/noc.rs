//! `noc`: the routers of [`crate::timing::noc`] under synthetic traffic, and their agreement with published curves.

use super::{CliError, Context};
use crate::timing::noc::{self, MAX_SIDE, Measured, Options, Pattern};
use clap::ValueEnum;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::fmt::Write;

/// The committed curves; see the head of the file for their source.
const MESH_4X4: &str = include_str!("../../tests/data/noc/mesh4x4.csv");

/// Most cycles of a run: minutes on the largest mesh.
const MAX_CYCLES: u64 = 10_000_000;

/// A mesh of routers under synthetic traffic: latency and accepted rate
#[derive(clap::Args)]
pub struct Args {
    /// The mesh, as KxK
    #[arg(long, value_name = "KxK", default_value = "4x4", value_parser = side)]
    mesh: u16,
    /// Who sends to whom
    #[arg(long, value_enum, default_value = "uniform")]
    traffic: TrafficName,
    /// Flits of a packet
    #[arg(
        long,
        value_name = "P",
        allow_negative_numbers = true,
        default_value_t = 1
    )]
    packet_flits: u32,
    /// Offered load in flits per node and cycle
    #[arg(
        long,
        value_name = "R",
        allow_negative_numbers = true,
        default_value_t = 0.1
    )]
    rate: f64,
    /// detailed: flits, virtual channels, credits; fast: whole packets book links; servers: links as the timed chip has them
    #[arg(long, value_enum, default_value = "detailed")]
    router: RouterName,
    /// Cycles measured, after a quarter of them to warm up
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 40_000
    )]
    cycles: u64,
    /// Seed of the traffic
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 12345
    )]
    seed: u64,
    /// Print the 4x4 curves of the reference beside both routers, and run nothing else
    #[arg(long, conflicts_with_all = ["mesh", "traffic", "packet_flits", "rate", "router"])]
    table: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum TrafficName {
    Uniform,
    Transpose,
    Hotspot,
}

#[derive(Clone, Copy, ValueEnum)]
enum RouterName {
    Detailed,
    Fast,
    Servers,
}

impl RouterName {
    fn name(self) -> &'static str {
        match self {
            RouterName::Detailed => "detailed",
            RouterName::Fast => "fast",
            RouterName::Servers => "servers",
        }
    }

    fn run(self, options: &Options) -> Measured {
        match self {
            RouterName::Detailed => noc::router::run(options),
            RouterName::Fast => noc::fast::run(options),
            RouterName::Servers => noc::servers::run(options),
        }
    }
}

/// `KxK` of a flag.
fn side(text: &str) -> Result<u16, String> {
    let sides = text
        .split_once('x')
        .and_then(|(a, b)| Some((a.parse::<u16>().ok()?, b.parse::<u16>().ok()?)));
    match sides {
        Some((a, b)) if a == b && (1..=MAX_SIDE).contains(&a) => Ok(a),
        Some((a, b)) if a == b => Err(format!("the side is {a}; it must be 1 to {MAX_SIDE}")),
        Some((a, b)) => Err(format!("{a}x{b} is not square")),
        None => Err("expected KxK, as 4x4".to_owned()),
    }
}

pub fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    if !(1..=MAX_CYCLES).contains(&args.cycles) {
        return Err(CliError::usage(format!(
            "--cycles is {}; it must be 1 to {MAX_CYCLES}",
            args.cycles
        )));
    }
    let options = Options {
        warmup: args.cycles / 4,
        measure: args.cycles,
        drain: 2 * args.cycles,
        seed: args.seed,
        ..Options::new(
            args.mesh,
            pattern(args.traffic),
            args.packet_flits,
            args.rate,
        )
    };
    if args.table {
        return table(&options, context);
    }
    options
        .validate()
        .map_err(|e| CliError::usage(e.to_string()))?;
    let start = std::time::Instant::now();
    let m = args.router.run(&options);
    let wall_s = start.elapsed().as_secs_f64();
    if context.json {
        let Value::Object(mut fields) = json!(m) else {
            unreachable!("a struct is an object");
        };
        let about = json!({
            "mesh": format!("{0}x{0}", args.mesh), "traffic": options.pattern.name(),
            "packet_flits": options.packet_flits, "rate": options.rate, "router": args.router.name(),
            "stable": m.undelivered == 0, "seed": options.seed, "wall_s": wall_s,
            "flits_per_wall_s": m.flits as f64 / wall_s,
        });
        if let Value::Object(about) = about {
            fields.extend(about);
        }
        return context.print_json(Value::Object(fields));
    }
    let shown = |x: Option<f64>, unit| match x {
        Some(x) => format!("{x:.2} {unit}"),
        None => "unknown: no measured packet arrived".to_owned(),
    };
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "{0}x{0} mesh, {1} traffic, {2}-flit packets, {3} flits/node/cycle offered, {4} router\n\
         latency    {5}\n\
         accepted   {6:.4} flits/node/cycle\n\
         hops       {7}\n\
         packets    {8} measured over {9} cycles",
        args.mesh,
        options.pattern.name(),
        options.packet_flits,
        options.rate,
        args.router.name(),
        shown(
            m.latency_cycles,
            "cycles from creation to tail, source queue included"
        ),
        m.accepted,
        shown(m.hops, "routers"),
        m.packets,
        options.measure,
    );
    if m.undelivered > 0 {
        let _ = writeln!(
            out,
            "above saturation: {} of them had not arrived {} cycles later; the latency leaves them out",
            m.undelivered, options.drain
        );
    }
    context.print(&out)
}

fn pattern(name: TrafficName) -> Pattern {
    match name {
        TrafficName::Uniform => Pattern::Uniform,
        TrafficName::Transpose => Pattern::Transpose,
        TrafficName::Hotspot => Pattern::Hotspot,
    }
}

/// A row of the reference.
struct Row {
    pattern: Pattern,
    packet_flits: u32,
    rate: f64,
    stable: bool,
    latency: f64,
    accepted: f64,
}

/// The rows of the committed file, which tests read through.
fn rows() -> Vec<Row> {
    let row = |line: &str| {
        let mut f = line.split(',');
        let name = f.next()?;
        Some(Row {
            pattern: Pattern::ALL.into_iter().find(|p| p.name() == name)?,
            packet_flits: f.next()?.parse().ok()?,
            rate: f.next()?.parse().ok()?,
            stable: f.next()? == "1",
            latency: f.next()?.parse().ok()?,
            accepted: f.next()?.parse().ok()?,
        })
    };
    MESH_4X4.lines().filter_map(row).collect()
}

/// What [`table`] compares the chip's servers with the detailed router at: traffic and offered loads, for each of these packets. 16 flits are
/// a train of 4 KiB at 256 B a cycle.
const SERVERS: [(Pattern, [f64; 4]); 2] = [
    (Pattern::Uniform, [0.1, 0.3, 0.5, 0.6]),
    (Pattern::Hotspot, [0.02, 0.03, 0.04, 0.05]),
];
const SERVERS_FLITS: [u32; 3] = [1, 5, 16];

fn table(base: &Options, context: &Context) -> Result<(), CliError> {
    let loads = SERVERS_FLITS.into_iter().flat_map(|packet_flits| {
        SERVERS.into_iter().flat_map(move |(pattern, rates)| {
            rates.map(|rate| Options {
                side: 4,
                pattern,
                packet_flits,
                rate,
                ..*base
            })
        })
    });
    let loads: Vec<Options> = loads.collect();
    let servers: Vec<(Measured, Measured)> = loads
        .par_iter()
        .map(|options| (noc::router::run(options), noc::servers::run(options)))
        .collect();
    let rows = rows();
    let runs: Vec<(Measured, Measured)> = rows
        .par_iter()
        .map(|row| {
            let options = Options {
                side: 4,
                pattern: row.pattern,
                packet_flits: row.packet_flits,
                rate: row.rate,
                ..*base
            };
            (noc::router::run(&options), noc::fast::run(&options))
        })
        .collect();
    let percent = |ours: f64, reference: f64| 100.0 * (ours / reference - 1.0);
    if context.json {
        let rows: Vec<Value> = rows
            .iter()
            .zip(&runs)
            .map(|(row, (detailed, fast))| {
                json!({
                    "traffic": row.pattern.name(), "packet_flits": row.packet_flits, "rate": row.rate,
                    "stable": row.stable,
                    "reference": { "latency_cycles": row.latency, "accepted": row.accepted },
                    "detailed": detailed, "fast": fast,
                })
            })
            .collect();
        let servers = loads.iter().zip(&servers).map(|(o, (detailed, servers))| {
            json!({
                "traffic": o.pattern.name(), "packet_flits": o.packet_flits, "rate": o.rate,
                "detailed": detailed, "servers": servers,
            })
        });
        let servers: Vec<Value> = servers.collect();
        return context.print_json(json!({ "mesh": "4x4", "rows": rows, "servers": servers }));
    }
    let mut out = String::from(
        "4x4 mesh against BookSim2 (860f1a54). Latency in cycles: reference, detailed router, difference; fast router, difference to\n\
         the detailed one. Accepted in flits/node/cycle. Rows past saturation have no steady latency.\n\n\
         traffic    flits      rate   latency  detailed              fast             accepted  detailed\n",
    );
    for (row, (detailed, fast)) in rows.iter().zip(&runs) {
        let (ours, quick) = (
            detailed.latency_cycles.unwrap_or(f64::NAN),
            fast.latency_cycles.unwrap_or(f64::NAN),
        );
        let latency = match row.stable {
            true => format!(
                "{:9.2} {ours:9.2} {:+7.1} %  {quick:9.2} {:+7.1} %",
                row.latency,
                percent(ours, row.latency),
                percent(quick, ours)
            ),
            false => format!("{:>49}", "past saturation"),
        };
        let _ = writeln!(
            out,
            "{:10} {:5} {:9} {latency}  {:8.4}  {:8.4} {:+6.1} %",
            row.pattern.name(),
            row.packet_flits,
            row.rate,
            row.accepted,
            detailed.accepted,
            percent(detailed.accepted, row.accepted)
        );
    }
    out.push_str(
        "\nThe timed chip's model of contention, FIFO servers of whole packets, on the same mesh: latency in cycles, difference to the\n\
         detailed router. A train of 4 KiB is 16 flits.\n\n\
         traffic    flits      rate  detailed   servers\n",
    );
    for (o, (detailed, servers)) in loads.iter().zip(&servers) {
        let (exact, ours) = (
            detailed.latency_cycles.unwrap_or(f64::NAN),
            servers.latency_cycles.unwrap_or(f64::NAN),
        );
        let _ = writeln!(
            out,
            "{:10} {:5} {:9} {exact:9.2} {ours:9.2} {:+7.1} %",
            o.pattern.name(),
            o.packet_flits,
            o.rate,
            percent(ours, exact)
        );
    }
    context.print(&out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_reference_is_a_row() {
        let lines = MESH_4X4.lines().filter(|l| !l.starts_with('#')).count();
        assert_eq!(rows().len(), lines - 1);
    }

    #[test]
    fn sides_are_square_and_bounded() {
        assert_eq!(side("8x8"), Ok(8));
        for (text, message) in [
            ("8", "expected KxK, as 4x4"),
            ("8x4", "8x4 is not square"),
            ("0x0", "the side is 0; it must be 1 to 32"),
            ("33x33", "the side is 33; it must be 1 to 32"),
        ] {
            assert_eq!(side(text), Err(message.to_owned()));
        }
    }
}
