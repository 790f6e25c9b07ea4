//! Runs of a channel: closed forms, random settings under the checker, what skipping time and settings must not change.

use super::controller::{Config, Controller, Ecc, RowPolicy, Scheduler};
use super::device::Geometry;
use super::mapping::{Mapping, NAMED};
use super::patterns::{Access, Pattern, Source};
use super::run::{Injection, Outcome, Run, RunError};
use crate::chip::{HbmDevice, Refresh};
use crate::num::random::splitmix64;

fn device(name: &str) -> HbmDevice {
    HbmDevice::preset(name).unwrap()
}

/// A run of a pattern.
#[derive(Clone, Copy)]
struct Case<'a> {
    device: &'a str,
    pattern: Pattern,
    arg: u64,
    mapping: &'a str,
    injection: Injection,
    requests: u64,
    config: Config,
    split: bool,
    dense: bool,
}

impl Default for Case<'_> {
    fn default() -> Self {
        Case {
            device: "hbm3-6400",
            pattern: Pattern::SeqRd,
            arg: 1,
            mapping: "M1",
            injection: Injection::Saturating,
            requests: 20_000,
            config: Config::default(),
            split: false,
            dense: false,
        }
    }
}

impl Case<'_> {
    fn source(&self) -> Source {
        let geometry = Geometry::new(&device(self.device));
        Source::Pattern(self.pattern.generate(self.arg, &geometry).unwrap())
    }

    /// The outcome, every command checked.
    fn run(&self) -> Outcome {
        self.run_of(self.source(), true).unwrap()
    }

    /// The same, nothing checked.
    fn outcome(&self) -> Outcome {
        self.run_of(self.source(), false).unwrap()
    }

    fn run_of(&self, source: Source, check: bool) -> Result<Outcome, RunError> {
        let d = device(self.device);
        let mapping = Mapping::parse(self.mapping, Geometry::new(&d)).unwrap();
        let run = Run {
            device: &d,
            mapping: &mapping,
            injection: self.injection,
            check,
            dense: self.dense,
            requests: self.requests,
        };
        let second = self.split.then(|| self.source());
        run.go(Controller::new(&d, self.config), source, second)
    }
}

fn accesses(list: &[(u64, u64, bool)]) -> Source {
    let list: Vec<_> = list
        .iter()
        .map(|&(at, line, write)| {
            Ok(Access {
                at: Some(at),
                line,
                write,
            })
        })
        .collect();
    Source::Trace(Box::new(list.into_iter()))
}

/// Latency in CK of one read of an idle channel, after the given accesses at CK 0.
fn idle_latency(device: &str, before: &[(u64, u64, bool)], line: u64) -> f64 {
    let case = Case {
        device,
        injection: Injection::Timed,
        ..Case::default()
    };
    let mut list = before.to_vec();
    list.push((4000, line, false));
    let outcome = case.run_of(accesses(&list), true).unwrap();
    (outcome.half_ck - 1 - 4000) as f64 / 2.0
}

#[test]
fn idle_latencies_are_the_closed_forms_to_one_ck() {
    for name in ["hbm3-6400", "hbm3e-9132"] {
        let d = device(name);
        let ck = f64::from;
        let hit = ck(d.cl_ck + d.bl_ck);
        assert_eq!(idle_latency(name, &[(0, 0, false)], 8), hit);
        let closed = idle_latency(name, &[], 8);
        assert!((closed - hit - ck(d.rcdrd_ck)).abs() <= 1.0, "{closed}");
        // The same bank, the next row.
        let far = Geometry::new(&d).row_set();
        let conflict = idle_latency(name, &[(0, 0, false)], far);
        assert!(
            (conflict - hit - ck(d.rcdrd_ck + d.rp_ck)).abs() <= 1.0,
            "{conflict}"
        );
    }
}

#[test]
fn utilisations_are_the_closed_forms() {
    for name in ["hbm3-6400", "hbm3e-9132"] {
        let d = device(name);
        let row_set = Geometry::new(&d).row_set();
        let share = |a: u32, b: u32| f64::from(a) / f64::from(b);
        let (rand, stride, seq) = (Pattern::Rand, Pattern::Stride, Pattern::SeqRd);
        for (what, pattern, arg, mapping, want) in [
            (
                "a row per burst",
                rand,
                8,
                "M1",
                share(4 * d.bl_ck, d.faw_ck),
            ),
            (
                "a row per two bursts",
                rand,
                8,
                "M5",
                share(8 * d.bl_ck, d.faw_ck),
            ),
            (
                "one bank, new rows",
                stride,
                row_set,
                "M1",
                share(d.bl_ck, 2 * d.rc_ck),
            ),
            ("one pseudo channel", seq, 1, "bg,co,ba,sid,ro,pc", 0.5),
            (
                "one group per stack ID",
                seq,
                1,
                "sid,co,ba,ro,bg,pc",
                share(d.bl_ck, 2 * d.ccdr_ck),
            ),
        ] {
            let case = Case {
                device: name,
                pattern,
                arg,
                mapping,
                ..Case::default()
            };
            let got = case.run().utilisation();
            assert!(
                (got / want - 1.0).abs() <= 0.01,
                "{name}, {what}: {got}, not {want}"
            );
        }
        let mut case = Case {
            device: name,
            requests: 100_000,
            ..Case::default()
        };
        case.config.refresh = Refresh::Ab;
        // To close every bank, refresh, and open again.
        let lost = d.rfc_ck + d.rtp_ck + d.rp_ck + d.rcdrd_ck;
        let ceiling = 1.0 - share(lost, d.refi_ck);
        let got = case.run().utilisation();
        assert!(
            (got / ceiling - 1.0).abs() <= 0.01,
            "{name}: {got}, not {ceiling}"
        );
    }
}

/// Settings, traffic and mapping from a number.
fn random_case(seed: u64) -> Case<'static> {
    let random = |n: u64, below: u64| splitmix64(seed, n) % below;
    let pattern = Pattern::ALL[random(0, Pattern::ALL.len() as u64) as usize].0;
    let queue = |n| [1, 2, 7, 32, 128][random(n, 5) as usize];
    let (low, high) = [(0.2, 0.8), (0.0, 1.0), (0.5, 0.5), (0.0, 0.0)][random(3, 4) as usize];
    Case {
        device: ["hbm3-6400", "hbm3e-9132"][random(4, 2) as usize],
        pattern,
        arg: 1 + random(5, 70),
        mapping: NAMED[random(6, NAMED.len() as u64) as usize].0,
        injection: [
            Injection::Saturating,
            Injection::Rate(0.1),
            Injection::Rate(0.6),
            Injection::Single,
        ][random(7, 4) as usize],
        requests: 700,
        config: Config {
            read_queue: queue(1),
            write_queue: queue(2),
            low,
            high,
            scheduler: [Scheduler::FrFcfs, Scheduler::FrFcfsRowHit][random(8, 2) as usize],
            row_policy: [RowPolicy::Open, RowPolicy::Close(1), RowPolicy::Close(4)]
                [random(9, 3) as usize],
            refresh: [
                Refresh::None,
                Refresh::Ab,
                Refresh::PbBlocking,
                Refresh::PbBank,
            ][random(10, 4) as usize],
            rfm: [None, Some(1), Some(20)][random(11, 3) as usize],
            ecc: [Ecc::None, Ecc::Sideband { check_ck: 3 }][random(12, 2) as usize],
        },
        split: random(13, 3) == 0,
        dense: false,
    }
}

#[test]
fn random_settings_are_legal_and_serve_every_request() {
    for seed in 0..400 {
        let case = random_case(seed);
        let outcome = case
            .run_of(case.source(), true)
            .unwrap_or_else(|error| panic!("{seed}: {error}"));
        assert_eq!(outcome.requests, case.requests, "{seed}");
        assert_eq!(outcome.reads + outcome.writes, case.requests, "{seed}");
        assert_eq!(outcome.latency.len(), outcome.reads, "{seed}");
        let t = outcome.totals;
        let touched = t.row_hits + t.row_misses + t.row_conflicts;
        assert_eq!(touched + t.forwarded + t.merged, case.requests, "{seed}");
    }
}

#[test]
fn skipping_idle_time_changes_nothing() {
    for seed in 1000..1100 {
        let case = random_case(seed);
        let dense = Case {
            dense: true,
            ..case
        };
        assert!(case.run() == dense.run(), "{seed}");
    }
}

/// Runs that repeat themselves: what passes cycle by cycle ends as what is stepped through, also where the end cuts a cycle off.
#[test]
fn passing_cycles_at_once_changes_nothing() {
    let patterns = [
        (Pattern::SeqRd, 1),
        (Pattern::SeqWr, 1),
        (Pattern::Stride, 7),
        (Pattern::Stride, 32),
        (Pattern::Mix11, 1),
        (Pattern::Mix21, 1),
        (Pattern::StreamsAl, 16),
        (Pattern::Rand, 8),
    ];
    let close = Config {
        row_policy: RowPolicy::Close(4),
        scheduler: Scheduler::FrFcfs,
        rfm: Some(40),
        ..Config::default()
    };
    for (device, mapping) in [
        ("hbm3-6400", "M1"),
        ("hbm3e-9132", "M7"),
        ("hbm3-6400", "M2"),
    ] {
        for (pattern, arg) in patterns {
            for (refresh, config) in [
                (Refresh::None, Config::default()),
                (Refresh::None, close),
                (Refresh::PbBank, Config::default()),
                (Refresh::Ab, Config::default()),
            ] {
                let case = Case {
                    device,
                    pattern,
                    arg,
                    mapping,
                    requests: 25_000 + 7 * arg,
                    config: Config { refresh, ..config },
                    ..Case::default()
                };
                let stepped = Case {
                    dense: true,
                    ..case
                };
                let name = format!("{device} {mapping} {pattern:?} {arg} {refresh:?}");
                let outcome = Outcome {
                    passed: 0,
                    ..case.outcome()
                };
                assert!(outcome == stepped.outcome(), "{name}");
            }
        }
    }
}

/// A run that no host could step through: each cycle adds the same.
#[test]
fn cycles_pass_at_once() {
    let outcome = |requests| {
        let case = Case {
            requests,
            ..Case::default()
        };
        case.outcome()
    };
    // All lines of the channel, less its last rows.
    let [a, b, c] = [1, 8_000, 15_999].map(|rows| outcome(4096 + 2048 * rows));
    assert_eq!((c.reads, c.latency.len()), (c.requests, c.requests));
    assert_eq!(c.half_ck - b.half_ck, b.half_ck - a.half_ck);
    let activates = |o: &Outcome| o.totals.activates;
    assert_eq!(activates(&c) - activates(&b), activates(&b) - activates(&a));
}

/// Long gaps between requests: whole rounds of refresh are jumped over, and nothing differs but the commands that the checker saw.
#[test]
fn skipping_rounds_of_refresh_changes_nothing() {
    for refresh in [Refresh::Ab, Refresh::PbBlocking, Refresh::PbBank] {
        for sids in [1, 2] {
            let mut d = device("hbm3-6400");
            d.sids = sids;
            let mapping = Mapping::parse("M1", Geometry::new(&d)).unwrap();
            let config = Config {
                refresh,
                rfm: Some(2),
                ..Config::default()
            };
            let list = [
                (0, 0, false),
                (5, 1024, true),
                (70_003, 0, false),
                (350_000, 8, false),
                (350_001, 2048, true),
                (350_100, 3, false),
                (350_101, 5120, false),
                (690_007, 9, false),
            ];
            let outcome = |dense| {
                let run = Run {
                    device: &d,
                    mapping: &mapping,
                    injection: Injection::Timed,
                    check: true,
                    dense,
                    requests: 100,
                };
                let mut outcome = run
                    .go(Controller::new(&d, config), accesses(&list), None)
                    .unwrap();
                let checked = outcome.checked.take().unwrap();
                (outcome, checked)
            };
            let (skipped, few) = outcome(false);
            let (dense, all) = outcome(true);
            assert_eq!(skipped.totals, dense.totals, "{refresh:?} {sids}");
            assert!(skipped == dense, "{refresh:?} {sids}");
            assert!(
                few.commands < all.commands,
                "{refresh:?}: nothing was skipped"
            );
            assert_eq!(all.skipped_refreshes, 0);
            assert_eq!(few.commands + few.skipped_refreshes, all.commands);
        }
    }
    // Years of idling take no time.
    let case = Case {
        injection: Injection::Timed,
        config: Config {
            refresh: Refresh::PbBank,
            ..Config::default()
        },
        ..Case::default()
    };
    let list = [(0, 0, false), (1 << 59, 0, false)];
    let outcome = case.run_of(accesses(&list), true).unwrap();
    assert_eq!(outcome.reads, 2);
}

#[test]
fn buffered_writes_answer_reads_and_absorb_writes() {
    let case = Case {
        injection: Injection::Timed,
        ..Case::default()
    };
    // One line many times while the write waits for its row.
    let list = [
        (0, 5, true),
        (1, 5, true),
        (1, 5, false),
        (2, 6, false),
        (3, 5, false),
    ];
    let outcome = case.run_of(accesses(&list), true).unwrap();
    assert_eq!(
        outcome.totals.merged, 0,
        "the write went to the device at once"
    );
    // Behind reads, it waits.
    let mut list = vec![
        (0, 0, false),
        (0, 256, false),
        (0, 512, false),
        (0, 5, true),
    ];
    list.extend([(1, 5, true), (1, 5, false), (2, 5, false)]);
    let outcome = case.run_of(accesses(&list), true).unwrap();
    assert_eq!((outcome.totals.merged, outcome.totals.forwarded), (1, 2));
    assert_eq!((outcome.reads, outcome.writes), (5, 2));
    assert_eq!(outcome.source_latency.quantile(0.0), 0);
}

#[test]
fn ecc_beside_the_data_costs_latency_only() {
    let mut case = Case {
        pattern: Pattern::Rand,
        injection: Injection::Rate(0.1),
        ..Case::default()
    };
    let plain = case.run();
    case.config.ecc = Ecc::Sideband { check_ck: 5 };
    let checked = case.run();
    assert_eq!(checked.latency.mean(), plain.latency.mean() + 10.0);
    assert_eq!(checked.totals, plain.totals);
}

#[test]
fn refresh_management_follows_activates() {
    let mut case = Case {
        pattern: Pattern::Stride,
        // The same bank, a new row each time.
        arg: 2048,
        requests: 1000,
        ..Case::default()
    };
    case.config.rfm = Some(32);
    let outcome = case.run();
    assert_eq!(outcome.totals.activates, 1000);
    assert_eq!(outcome.totals.refresh_managements, 1000 / 32);
    case.config.rfm = None;
    assert_eq!(case.run().totals.refresh_managements, 0);
}

#[test]
fn split_admission_lets_reads_pass_blocked_writes() {
    let mut case = Case {
        pattern: Pattern::Mix21,
        injection: Injection::Rate(0.6),
        ..Case::default()
    };
    let in_order = case.run();
    case.split = true;
    let split = case.run();
    assert_eq!(
        (split.reads, split.writes),
        (in_order.reads, in_order.writes)
    );
    assert!(split.source_latency.mean() <= in_order.source_latency.mean());
}

#[test]
fn a_refresh_that_leaves_no_time_ends_in_an_error() {
    let mut d = device("hbm3-6400");
    d.refi_ck = d.rfc_ck - 1;
    let config = Config {
        refresh: Refresh::Ab,
        ..Config::default()
    };
    let mapping = Mapping::parse("M1", Geometry::new(&d)).unwrap();
    let run = Run {
        device: &d,
        mapping: &mapping,
        injection: Injection::Saturating,
        check: false,
        dense: false,
        requests: 1000,
    };
    let source = Pattern::SeqRd.generate(0, &Geometry::new(&d)).unwrap();
    let result = run.go(Controller::new(&d, config), Source::Pattern(source), None);
    assert!(
        matches!(result, Err(RunError::Stalled { .. })),
        "{result:?}"
    );
}
