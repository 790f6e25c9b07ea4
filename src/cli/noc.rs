//! `noc`: the routers of [`crate::timing::noc`] under synthetic traffic, and their agreement with published curves ([`table`]).

mod table;

use super::{CliError, Context};
use crate::timing::noc::{self, MAX_SIDE, Measured, Options, OptionsError, Pattern};
use clap::ValueEnum;
use serde_json::{Value, json};
use std::fmt::Write;

/// Most cycles of a run: minutes on the largest mesh.
const MAX_CYCLES: u64 = 10_000_000;

/// A mesh of routers under synthetic traffic: latency and accepted rate
///
/// The detailed router follows BookSim2's curves (`noc --table`, with every row that deviates and why). This is one data plane of unicast
/// packets; the chip's own networks, with a plane for control and multicast, run under whole programs: `chip show` has their widths and
/// latencies (noc.*, control.*), `bench` with --trace the use of their ports.
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
    /// Offered load in flits per node and cycle, above 0 and at most 1
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
    /// Print the reference's 4x4 curves beside the routers, with rows outside their tolerance and why, and 8x8 meshes beside each other
    #[arg(long, conflicts_with_all = ["mesh", "traffic", "packet_flits", "rate", "router", "cycles", "seed"])]
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
    if args.table {
        if context.changes_chip() {
            return Err(CliError::flag(
                "--table",
                "the reference has a mesh of its own; leave out --chip and --set",
            ));
        }
        return table::run(context);
    }
    if context.changes_chip() {
        return Err(CliError::usage(
            "a mesh on its own is no part of a chip: leave out --chip and --set",
        ));
    }
    if !(1..=MAX_CYCLES).contains(&args.cycles) {
        return Err(CliError::flag(
            "--cycles",
            format!("it is {}; it must be 1 to {MAX_CYCLES}", args.cycles),
        ));
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
    options.validate().map_err(|e| match e {
        OptionsError::Rate(_) => CliError::flag("--rate", e.to_string()),
        OptionsError::Packet(_) => CliError::flag("--packet-flits", e.to_string()),
        _ => CliError::usage(e.to_string()),
    })?;
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

#[cfg(test)]
mod tests {
    use super::*;

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
