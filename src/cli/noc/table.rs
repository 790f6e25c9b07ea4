//! `noc --table`: the reference's curves rerun, each row judged; the models without buffers beside the detailed router on 4x4 and 8x8.
//!
//! Invariant: a row outside its tolerance that is not in [`DEVIATIONS`] fails the command.

use super::super::mem::deviations;
use super::super::progress::Progress;
use super::super::{CliError, Context};
use crate::timing::noc::reference::{self, DEVIATIONS, LOW, Row, TOLERANCE};
use crate::timing::noc::{Measured, Options, Pattern, fast, router, servers};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::fmt::Write;

/// Meshes, traffic, offered loads and cycles measured of the models beside the detailed router: below its saturation, and once above it.
const LOADS: [(u16, Pattern, [f64; 5], u64); 4] = [
    (4, Pattern::Uniform, [0.1, 0.3, 0.5, 0.6, 0.9], 40_000),
    (4, Pattern::Hotspot, [0.02, 0.03, 0.04, 0.05, 0.07], 40_000),
    (8, Pattern::Uniform, [0.1, 0.2, 0.3, 0.35, 0.6], 10_000),
    (
        8,
        Pattern::Hotspot,
        [0.004, 0.008, 0.01, 0.012, 0.02],
        40_000,
    ),
];
/// 16 flits are a train of 4 KiB at 256 B a cycle.
const PACKETS: [u32; 3] = [1, 5, 16];
/// Flits of the packets that are sent alone.
const ALONE: [u32; 2] = [1, 5];

/// The detailed router, the fast one, the chip's servers.
type Three = [Measured; 3];

fn three(options: &Options) -> Three {
    [
        router::run(options),
        fast::run(options),
        servers::run(options),
    ]
}

fn loads() -> Vec<Options> {
    let mut all = Vec::new();
    for (side, pattern, rates, measure) in LOADS {
        for packet_flits in PACKETS {
            all.extend(rates.map(|rate| Options {
                measure,
                drain: 2 * measure,
                ..Options::new(side, pattern, packet_flits, rate)
            }));
        }
    }
    all
}

/// Packets that meet no other: runs of the detailed router, and how many take exactly what the closed form says.
fn alone() -> (usize, usize) {
    let cases = Pattern::ALL.into_iter().flat_map(|p| ALONE.map(|f| (p, f)));
    let cases: Vec<(Pattern, u32)> = cases.collect();
    let exact = cases.par_iter().filter(|(pattern, flits)| {
        let m = router::run(&Options {
            measure: 300_000,
            ..Options::new(reference::SIDE, *pattern, *flits, 2e-5)
        });
        m.latency_cycles.zip(m.hops).is_some_and(|(latency, hops)| {
            (latency - reference::zero_load(hops, *flits)).abs() < 1e-9
        })
    });
    (exact.count(), cases.len())
}

/// Prints the tables.
pub fn run(context: &Context) -> Result<(), CliError> {
    let (rows, loads) = (Row::all(), loads());
    let (runs, models, alone) = {
        let _progress = Progress::start("simulating", context);
        let runs: Vec<Three> = rows.par_iter().map(|row| three(&row.options())).collect();
        let models: Vec<Three> = loads.par_iter().map(three).collect();
        (runs, models, alone())
    };
    let outside: Vec<&Row> = rows
        .iter()
        .zip(&runs)
        .filter(|(row, ours)| row.within(&ours[0]) == Some(false))
        .map(|(row, _)| row)
        .collect();
    let unlisted: Vec<String> = outside
        .iter()
        .filter(|row| row.deviation().is_none())
        .map(|row| row.name())
        .collect();
    if context.json {
        let outside: Vec<String> = outside.iter().map(|row| row.name()).collect();
        let found = object(&rows, &runs, &loads, &models, &outside, &unlisted, alone);
        context.print_json(found)?;
    } else {
        let mut out = curves(&rows, &runs);
        let judged = rows.iter().filter(|row| row.judged().is_some()).count();
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{} rows, {judged} judged, {} outside their tolerance; a lone packet takes exactly 4 cycles a router and 2: {} of {} runs",
            rows.len(),
            outside.len(),
            alone.0,
            alone.1
        );
        out.push_str(&deviations(DEVIATIONS));
        out.push_str(&beside(&loads, &models));
        context.print(&out)?;
    }
    match (unlisted.is_empty(), alone.0 == alone.1) {
        (true, true) => Ok(()),
        (false, _) => Err(CliError::Check {
            message: format!("outside their tolerance: {}", unlisted.join("; ")),
        }),
        (true, false) => Err(CliError::Check {
            message: "a lone packet does not take 4 cycles a router and 2".to_owned(),
        }),
    }
}

fn object(
    rows: &[Row],
    runs: &[Three],
    loads: &[Options],
    models: &[Three],
    outside: &[String],
    unlisted: &[String],
    alone: (usize, usize),
) -> Value {
    let rows: Vec<Value> = rows
        .iter()
        .zip(runs)
        .map(|(row, [detailed, fast, servers])| {
            json!({
                "traffic": row.pattern.name(), "packet_flits": row.packet_flits, "rate": row.rate,
                "stable": row.stable, "saturation": row.saturation,
                "reference": { "latency_cycles": row.latency, "accepted": row.accepted },
                "detailed": detailed, "fast": fast, "servers": servers,
                "judged": row.judged().map(|by| by.name()),
                "difference": row.difference(detailed),
                "within": row.within(detailed),
                "deviation": row.deviation(),
            })
        })
        .collect();
    let models: Vec<Value> = loads
        .iter()
        .zip(models)
        .map(|(o, [detailed, fast, servers])| {
            json!({
                "mesh": format!("{0}x{0}", o.side), "traffic": o.pattern.name(), "packet_flits": o.packet_flits,
                "rate": o.rate, "saturated": saturated(o, detailed),
                "detailed": detailed, "fast": fast, "servers": servers,
            })
        })
        .collect();
    json!({
        "reference": reference::SOURCE,
        "mesh": "4x4",
        "tolerance": TOLERANCE,
        "rows": rows,
        "outside": outside,
        "unexplained": unlisted,
        "deviations": DEVIATIONS.iter().map(|(row, why)| json!({ "row": row, "reason": why })).collect::<Vec<_>>(),
        "zero_load": { "exact": alone.0, "runs": alone.1 },
        "models": models,
    })
}

fn percent(ours: f64, reference: f64) -> f64 {
    100.0 * (ours / reference - 1.0)
}

/// Whether the detailed router does not take what is offered.
fn saturated(options: &Options, detailed: &Measured) -> bool {
    detailed.undelivered > 0 || detailed.accepted < 0.97 * options.rate
}

fn curves(rows: &[Row], runs: &[Three]) -> String {
    let mut out = format!(
        "4x4 mesh against {}. Latency in cycles: reference, detailed router, difference; fast router, difference to the detailed one.\n\
         Accepted in flits/node/cycle. Judged, within {} %: mean latency below {} % of saturation, accepted rate at saturation (sat); not\n\
         in between, where latency climbs too steeply, nor past saturation, where it has no mean.\n\n\
         traffic    flits      rate of sat   latency  detailed              fast             accepted  detailed              fast\n",
        reference::SOURCE,
        100.0 * TOLERANCE,
        100.0 * LOW,
    );
    for (row, [detailed, fast, _]) in rows.iter().zip(runs) {
        let latency = |m: &Measured| m.latency_cycles.unwrap_or(f64::NAN);
        let (ours, quick) = (latency(detailed), latency(fast));
        let latency = match row.stable {
            true => format!(
                "{:9.2} {ours:9.2} {:+7.1} %  {quick:9.2} {:+7.1} %",
                row.latency,
                percent(ours, row.latency),
                percent(quick, ours)
            ),
            false => format!("{:>49}", "past saturation"),
        };
        let verdict = match (row.judged(), row.within(detailed)) {
            (Some(by), Some(false)) => format!("  outside: {}", by.name()),
            (Some(_), Some(true)) => "  within".to_owned(),
            _ => String::new(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{:10} {:5} {:9} {:>6} {latency}  {:8.4}  {:8.4} {:+6.1} %  {:8.4}{verdict}",
            row.pattern.name(),
            row.packet_flits,
            row.rate,
            match row.rate == row.saturation {
                true => "sat".to_owned(),
                false => format!("{:.0} %", 100.0 * row.rate / row.saturation),
            },
            row.accepted,
            detailed.accepted,
            percent(detailed.accepted, row.accepted),
            fast.accepted,
        );
    }
    out
}

/// The models without buffers beside the detailed router.
fn beside(loads: &[Options], models: &[Three]) -> String {
    let mut out = String::from(
        "\nModels without buffers beside the detailed router: fast, and the timed chip's FIFO servers of whole packets (a train of 4 KiB is 16\n\
         flits). Latency in cycles with the difference to the detailed router; accepted in flits/node/cycle. There is no reference for 8x8. They\n\
         accept what the detailed router accepts below its saturation; how far their latencies are to be believed is what the differences\n\
         say. Past saturation their figures say nothing: packets that do not cross a full link are not held up by those that wait for it, so\n\
         they accept more than the detailed router, even a mean above the 0.5 that an 8x8 mesh's middle passes of evenly served uniform\n\
         traffic.\n\n\
         mesh traffic    flits     rate  detailed      fast            servers            accepted: detailed    fast  servers\n",
    );
    for (o, [detailed, fast, servers]) in loads.iter().zip(models) {
        let latency = |m: &Measured| m.latency_cycles.unwrap_or(f64::NAN);
        let exact = latency(detailed);
        let latencies = match saturated(o, detailed) {
            true => format!("{:>47}", "past saturation"),
            false => format!(
                "{exact:9.2} {:9.2} {:+6.1} % {:9.2} {:+6.1} %",
                latency(fast),
                percent(latency(fast), exact),
                latency(servers),
                percent(latency(servers), exact)
            ),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{:4} {:10} {:5} {:8} {latencies}             {:8.4} {:7.4}  {:7.4}",
            format!("{0}x{0}", o.side),
            o.pattern.name(),
            o.packet_flits,
            o.rate,
            detailed.accepted,
            fast.accepted,
            servers.accepted
        );
    }
    out
}
