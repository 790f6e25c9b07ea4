//! The routers against BookSim2's curves (`tests/data/noc/mesh4x4.csv`) and against each other.
//!
//! Rows of the reference are short runs and carry sampling noise of a few per cent, in the load as well: a latency is compared with ours
//! at the offered rate and at the one that was in fact accepted. Our noise is kept small by long runs.

use rayon::prelude::*;
use tilewright::timing::noc::{Options, Pattern, fast, router, servers};

const CURVES: &str = include_str!("../data/noc/mesh4x4.csv");

struct Row {
    pattern: Pattern,
    packet_flits: u32,
    rate: f64,
    stable: bool,
    latency: f64,
    accepted: f64,
}

fn rows() -> Vec<Row> {
    let lines = CURVES.lines().filter(|l| !l.starts_with('#')).skip(1);
    let row = |line: &str| {
        let f: Vec<&str> = line.split(',').collect();
        let number = |i: usize| f[i].parse::<f64>().unwrap();
        Row {
            pattern: *Pattern::ALL.iter().find(|p| p.name() == f[0]).unwrap(),
            packet_flits: f[1].parse().unwrap(),
            rate: number(2),
            stable: f[3] == "1",
            latency: number(4),
            accepted: number(5),
        }
    };
    lines.map(row).collect()
}

/// The curves: rows of one traffic and packet size, in order of rate.
fn curves(rows: &[Row]) -> Vec<&[Row]> {
    rows.chunk_by(|a, b| a.pattern == b.pattern && a.packet_flits == b.packet_flits)
        .collect()
}

fn options(side: u16, row: &Row, rate: f64) -> Options {
    Options {
        // Rare packets need a longer look.
        measure: if row.rate < 0.1 { 100_000 } else { 30_000 },
        drain: 20_000,
        ..Options::new(side, row.pattern, row.packet_flits, rate)
    }
}

#[test]
fn zero_load_is_four_cycles_a_router_and_two() {
    for packet_flits in [1, 2, 5, 9] {
        for side in [1, 2, 4, 8] {
            for pattern in Pattern::ALL {
                // So rare that packets do not meet.
                let options = Options {
                    measure: 4_800_000 / u64::from(side * side),
                    ..Options::new(side, pattern, packet_flits, 2e-5)
                };
                for measured in [
                    router::run(&options),
                    fast::run(&options),
                    servers::run(&options),
                ] {
                    let (latency, hops) =
                        (measured.latency_cycles.unwrap(), measured.hops.unwrap());
                    let expected = 4.0 * hops + 2.0 + f64::from(packet_flits - 1);
                    let off = (latency - expected).abs();
                    assert!(off < 1e-9, "{pattern:?} {side} {packet_flits}: {latency}");
                }
            }
        }
    }
}

#[test]
fn detailed_router_follows_the_curves() {
    let rows = rows();
    assert_eq!(rows.len(), 74);
    for curve in curves(&rows) {
        let saturation = curve.iter().rfind(|r| r.stable).unwrap();
        let below = curve.iter().filter(|r| r.rate < 0.8 * saturation.rate);
        below.collect::<Vec<_>>().into_par_iter().for_each(|row| {
            let [a, b] = [row.rate, row.accepted]
                .map(|rate| router::run(&options(4, row, rate)).latency_cycles.unwrap());
            let within = 0.95 * a.min(b)..=1.05 * a.max(b);
            let (pattern, flits, rate) = (row.pattern, row.packet_flits, row.rate);
            assert!(
                within.contains(&row.latency),
                "{pattern:?} {flits} at {rate}: {a}, {b} against {}",
                row.latency
            );
        });
        let accepted = router::run(&options(4, saturation, saturation.rate)).accepted;
        let off = accepted / saturation.accepted - 1.0;
        let (pattern, flits) = (saturation.pattern, saturation.packet_flits);
        assert!(off.abs() <= 0.05, "{pattern:?} {flits}: accepts {accepted}");
    }
}

/// How far the fast router is off the detailed one: (traffic, flits of a packet, share of the detailed router's saturation, bounds in
/// percent). Closing a gap means moving its bound.
#[test]
fn fast_router_is_as_far_off_as_its_page_says() {
    for (pattern, packet_flits, rate, low, high) in [
        (Pattern::Uniform, 1, 0.35, -1.0, 0.0),
        (Pattern::Uniform, 1, 0.55, -3.0, -1.0),
        (Pattern::Uniform, 5, 0.2, -4.0, -1.5),
        (Pattern::Uniform, 5, 0.4, -9.0, -5.0),
        (Pattern::Uniform, 5, 0.65, -18.0, -13.0),
        (Pattern::Transpose, 1, 0.2, -1.0, 1.0),
        (Pattern::Transpose, 5, 0.2, -5.0, -1.0),
        (Pattern::Hotspot, 1, 0.05, -1.0, 1.0),
        (Pattern::Hotspot, 5, 0.03125, -13.0, -7.0),
    ] {
        let options = Options {
            measure: 100_000,
            ..Options::new(4, pattern, packet_flits, rate)
        };
        let [exact, quick] = [router::run(&options), fast::run(&options)];
        let off = 100.0 * (quick.latency_cycles.unwrap() / exact.latency_cycles.unwrap() - 1.0);
        assert!(
            (low..=high).contains(&off),
            "{pattern:?} {packet_flits} at {rate}: {off} %"
        );
    }
}

/// How far the chip's servers are off the detailed router, as the page of `timing::noc` says: (traffic, flits of a packet, rate, bounds in
/// percent). 16 flits are a train of the chip.
#[test]
fn servers_are_as_far_off_as_their_page_says() {
    [
        (Pattern::Uniform, 1, 0.1, 11.0, 15.0),
        (Pattern::Uniform, 1, 0.5, 38.0, 46.0),
        (Pattern::Uniform, 5, 0.1, 1.0, 3.5),
        (Pattern::Uniform, 5, 0.5, 7.5, 13.0),
        (Pattern::Uniform, 16, 0.1, -4.5, -1.5),
        (Pattern::Uniform, 16, 0.5, -9.0, -2.5),
        (Pattern::Hotspot, 1, 0.05, 30.0, 38.0),
        (Pattern::Hotspot, 5, 0.03, -4.5, 0.0),
        (Pattern::Hotspot, 16, 0.02, -11.5, -6.5),
        (Pattern::Hotspot, 16, 0.04, -26.0, -17.0),
    ]
    .into_par_iter()
    .for_each(|(pattern, packet_flits, rate, low, high)| {
        let options = Options {
            measure: 100_000,
            ..Options::new(4, pattern, packet_flits, rate)
        };
        let [exact, ours] = [router::run(&options), servers::run(&options)];
        let off = 100.0 * (ours.latency_cycles.unwrap() / exact.latency_cycles.unwrap() - 1.0);
        assert!(
            (low..=high).contains(&off),
            "{pattern:?} {packet_flits} at {rate}: {off} %"
        );
    });
}

#[test]
fn every_packet_arrives() {
    // Far above saturation; traffic goes on while the measured packets leave, so a hotspot must be below its 1/64.
    for (pattern, packet_flits, rate) in [
        (Pattern::Uniform, 1, 0.9),
        (Pattern::Transpose, 5, 0.9),
        (Pattern::Hotspot, 3, 0.014),
    ] {
        let options = Options {
            warmup: 0,
            measure: 5_000,
            drain: 1_000_000,
            ..Options::new(8, pattern, packet_flits, rate)
        };
        for measured in [
            router::run(&options),
            fast::run(&options),
            servers::run(&options),
        ] {
            assert!(measured.packets > 1000);
            assert_eq!(measured.undelivered, 0, "{pattern:?} {measured:?}");
        }
    }
}

#[test]
fn runs_depend_on_the_options_alone() {
    let options = Options::new(4, Pattern::Uniform, 5, 0.5);
    assert_eq!(router::run(&options), router::run(&options));
    let other = Options { seed: 1, ..options };
    assert_ne!(router::run(&options), router::run(&other));
}
