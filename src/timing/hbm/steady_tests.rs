//! Cycles of a channel past the end of the device and under refresh; refreshes that come too late.

use super::controller::{Config, Controller};
use super::device::Geometry;
use super::mapping::Mapping;
use super::patterns::{Pattern, Source};
use super::run::{Injection, Outcome, Run, RunError};
use crate::chip::{HbmDevice, Refresh};

fn run(
    d: &HbmDevice,
    (pattern, arg, mapping): (Pattern, u64, &str),
    refresh: Refresh,
    requests: u64,
    (check, dense): (bool, bool),
) -> Result<Outcome, RunError> {
    let geometry = Geometry::new(d);
    let mapping = Mapping::parse(mapping, geometry).unwrap();
    let source = Source::Pattern(pattern.generate(arg, &geometry).unwrap());
    let run = Run {
        device: d,
        mapping: &mapping,
        injection: Injection::Saturating,
        check,
        dense,
        requests,
    };
    let config = Config {
        refresh,
        ..Config::default()
    };
    run.go(Controller::new(d, config), source, None)
}

/// A device of few rows, which streams go round often.
fn small(rows: u32) -> HbmDevice {
    let mut d = HbmDevice::preset("hbm3-6400").unwrap();
    d.rows = rows;
    d
}

#[test]
fn streams_that_begin_again_pass_at_once() {
    for (pattern, arg, mapping, rows) in [
        (Pattern::SeqRd, 1, "M1", 24),
        (Pattern::SeqWr, 1, "M1X", 48),
        (Pattern::Mix11, 1, "M1", 16),
        (Pattern::Stride, 3 * 2048 + 8, "M1", 24),
        (Pattern::Stride, 2048, "M1", 24),
        (Pattern::StreamsAl, 4, "M1", 24),
    ] {
        let d = small(rows);
        let requests = 2048 * u64::from(rows) * 5 + 77;
        let of = |dense| {
            let case = (pattern, arg, mapping);
            run(&d, case, Refresh::None, requests, (false, dense)).unwrap()
        };
        let (outcome, stepped) = (of(false), of(true));
        let name = format!("{pattern:?} {arg} {mapping}");
        // Strides and runs of streams may take longer to do the same again.
        let soon = !matches!(pattern, Pattern::Stride | Pattern::StreamsAl);
        assert!(!soon || outcome.passed > requests / 8, "{name}");
        let passed = 0;
        assert!(Outcome { passed, ..outcome } == stepped, "{name}");
    }
}

/// Refresh comes into the cycle: with intervals that a few periods make whole, one is found in a short run.
#[test]
fn cycles_are_found_under_refresh() {
    for (refresh, mapping) in [
        (Refresh::Ab, "M1"),
        (Refresh::PbBlocking, "M1"),
        (Refresh::PbBank, "M2"),
    ] {
        let mut d = small(16);
        (d.refi_ck, d.refipb_ck) = (4096, 128);
        let of = |dense| {
            let case = (Pattern::SeqRd, 1, mapping);
            run(&d, case, refresh, 3_000_000, (false, dense)).unwrap()
        };
        let (outcome, stepped) = (of(false), of(true));
        assert!(outcome.passed > 0, "{refresh:?} {mapping}");
        let passed = 0;
        assert!(Outcome { passed, ..outcome } == stepped, "{refresh:?}");
    }
}

/// A run that no host could step through, many times round the device.
#[test]
fn a_stream_goes_round_the_device_for_ever() {
    let d = HbmDevice::preset("hbm3e-9132").unwrap();
    let of = |requests| {
        let case = (Pattern::SeqRd, 1, "M1");
        run(&d, case, Refresh::None, requests, (false, false)).unwrap()
    };
    let all = Geometry::new(&d).lines();
    let [a, b, c] = [10, 1_000, 1_990].map(|rounds| of(rounds * all));
    assert_eq!(c.half_ck - b.half_ck, b.half_ck - a.half_ck);
    assert_eq!(c.reads, 1_990 * all);
    assert!(c.passed > c.requests - 1_000_000);
}

/// The checker knows when a bank must be refreshed, in every mode: tables whose controller is late are found out.
#[test]
fn late_refreshes_are_found() {
    let check = |d: &HbmDevice, refresh| {
        let case = (Pattern::SeqRd, 1, "M1");
        run(d, case, refresh, 60_000, (true, false))
    };
    for refresh in [Refresh::Ab, Refresh::PbBlocking, Refresh::PbBank] {
        let mut d = small(64);
        let outcome = check(&d, refresh).unwrap();
        assert!(outcome.checked.unwrap().commands > 60_000);
        // Not refreshed as it should, the table says; the controller goes by what is left of it.
        match refresh {
            Refresh::Ab => continue,
            _ => d.refipb_ck = 500,
        }
        let error = check(&d, refresh).unwrap_err().to_string();
        assert!(
            error.contains("is without its refresh, which was due by 6240 CK"),
            "{refresh:?}: {error}"
        );
        d = small(64);
        d.refi_ck = 2000;
        assert!(check(&d, refresh).is_err(), "{refresh:?}");
    }
}

/// The log is what the checker saw: every command, and a line for each jump over idle rounds.
#[test]
fn the_log_has_every_command() {
    let d = small(64);
    let geometry = Geometry::new(&d);
    let mapping = Mapping::parse("M1", geometry).unwrap();
    let far = [(0, 5, false), (4_000_000, 70, true)].map(|(at, line, write)| {
        Ok(super::patterns::Access {
            at: Some(at),
            line,
            write,
        })
    });
    let run = Run {
        device: &d,
        mapping: &mapping,
        injection: Injection::Timed,
        check: true,
        dense: false,
        requests: 2,
    };
    let config = Config {
        refresh: Refresh::PbBank,
        ..Config::default()
    };
    let mut log = Vec::new();
    let source = Source::Trace(Box::new(far.into_iter()));
    let controller = Controller::new(&d, config);
    let outcome = run
        .logged(controller, source, None, Some(&mut log))
        .unwrap();
    let text = String::from_utf8(log).unwrap();
    let (notes, commands): (Vec<&str>, Vec<&str>) = text.lines().partition(|l| l.starts_with('#'));
    let checked = outcome.checked.unwrap();
    assert_eq!(commands.len() as u64, checked.commands);
    assert!(!notes.is_empty() && notes[0].contains("rounds of refresh"));
    assert!(checked.skipped_refreshes > 10_000);
    // Line 5 of M1: pseudo channel 1, bank group 2.
    assert!(commands[0].ends_with(" ACT 1 0 2 0 0 -"), "{}", commands[0]);
    assert!(commands[1].ends_with(" RD 1 0 2 0 0 0"), "{}", commands[1]);
    assert!(commands.iter().any(|line| line.contains(" WR ")));
    let columns = |line: &&str| line.split(' ').count() == 8;
    assert!(commands.iter().all(columns));
}
