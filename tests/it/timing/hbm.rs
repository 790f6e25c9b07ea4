//! The first-order HBM channel against closed forms, on the presets' device hbm3e-9132.

use super::*;
use tilewright::num::random::splitmix64;
use tilewright::timing::hbm::first_order::FirstOrder;
use tilewright::timing::hbm::{ChannelTotals, Direction, HbmModel, Run, Schedule};

fn device(refresh: Refresh) -> Chip {
    let mut chip = Chip::preset("maia-200").unwrap();
    assert_eq!(chip.hbm.device, "hbm3e-9132");
    chip.hbm.refresh = refresh;
    chip
}

fn submit(hbm: &mut FirstOrder, now: u64, line: u64, lines: u32, direction: Direction) -> Schedule {
    let run = Run {
        channel: 0,
        line,
        lines,
        direction,
        tag: 0,
    };
    hbm.submit(Ps(now), run)
}

/// Row hit CL + BL, closed bank RCDRD + CL + BL, conflict RP + RCDRD + CL + BL: exactly.
#[test]
fn idle_latencies_are_the_closed_forms() {
    let chip = device(Refresh::None);
    let d = &chip.hbm.timing;
    let ck = |n: u32| u64::from(n) * u64::from(d.tck_ps);
    let mut hbm = FirstOrder::new(&chip);
    let mut latency = |now: u64, line: u64| {
        let last = submit(&mut hbm, now, line, 2, Direction::Read).last;
        (last.0 - now, hbm.totals(Ps::ZERO)[0].activations)
    };
    assert_eq!(latency(0, 0), (ck(d.rcdrd_ck + d.cl_ck + d.bl_ck), 1));
    assert_eq!(latency(1_000_000, 2), (ck(d.cl_ck + d.bl_ck), 1));
    // Rows are folded into bank and group, so the same bank's next row is one of the 16 places of a row's round: the one that
    // costs a precharge.
    let row_lines = u64::from(chip.hbm.timing.columns) * 2;
    let round = row_lines * u64::from(d.banks());
    let conflict = ck(d.rp_ck + d.rcdrd_ck + d.cl_ck + d.bl_ck);
    let found = (0..256).any(|i| {
        let mut hbm = FirstOrder::new(&chip);
        submit(&mut hbm, 0, 0, 2, Direction::Read);
        let line = round + i * 8;
        submit(&mut hbm, 1_000_000, line, 2, Direction::Read).last.0 - 1_000_000 == conflict
    });
    assert!(found, "no block of the next row meets bank 0");
}

/// Submits `count` requests, a new one whenever the one `depth` before is done; gives the end and the totals.
fn closed_loop(
    chip: &Chip,
    count: usize,
    depth: usize,
    request: impl Fn(u64) -> (u64, u32, Direction),
) -> (u64, ChannelTotals) {
    let mut hbm = FirstOrder::new(chip);
    let mut done: Vec<u64> = Vec::with_capacity(count);
    let mut now = 0;
    for i in 0..count {
        if i >= depth {
            now = now.max(done[i - depth]);
        }
        let (line, lines, direction) = request(i as u64);
        done.push(submit(&mut hbm, now, line, lines, direction).last.0);
    }
    (done.into_iter().max().unwrap(), hbm.totals(Ps::ZERO)[0])
}

/// Share of the data bus: a line of 32 B takes half a burst time, for two pseudo channels work at once.
fn utilisation(chip: &Chip, lines: u64, end: u64) -> f64 {
    let d = &chip.hbm.timing;
    (lines * u64::from(d.bl_ck) * u64::from(d.tck_ps) / 2) as f64 / end as f64
}

#[test]
fn a_sequential_stream_reaches_the_peak_less_refresh() {
    for refresh in [
        Refresh::None,
        Refresh::Ab,
        Refresh::PbBlocking,
        Refresh::PbBank,
    ] {
        let chip = device(refresh);
        let d = &chip.hbm.timing;
        let lost = match refresh {
            Refresh::Ab => f64::from(d.rfc_ck) / f64::from(d.refi_ck),
            Refresh::PbBlocking => f64::from(d.rp_ck + d.rrefd_ck) / f64::from(d.refipb_ck),
            // Only the refreshing bank waits, and others fill the bus.
            Refresh::None | Refresh::PbBank => 0.0,
        };
        let count = 40_000;
        let (end, totals) = closed_loop(&chip, count, 64, |i| (i * 8, 8, Direction::Read));
        let reached = utilisation(&chip, count as u64 * 8, end);
        assert!(reached <= 1.0, "{refresh:?}: {reached}");
        assert!(
            reached >= 0.95 * (1.0 - lost),
            "{refresh:?}: {reached}, {lost} lost"
        );
        assert_eq!(totals.read_bytes, count as u64 * 256);
        let busy =
            totals.data + totals.latency + totals.activate + totals.refresh + totals.turnaround;
        assert!(busy.0 <= end, "{refresh:?}: {totals:?} in {end} ps");
    }
}

/// Random blocks of 256 B open a row each: bound by the bus or by four activations per FAW.
#[test]
fn random_blocks_are_bound_by_activations() {
    let chip = device(Refresh::None);
    let d = &chip.hbm.timing;
    let blocks = d.pseudo_channel_bytes() * 2 / 256;
    let request = |i| (splitmix64(1, i) % blocks * 8, 8, Direction::Read);
    let (end, totals) = closed_loop(&chip, 20_000, 64, request);
    let bus = 8 * u64::from(d.bl_ck) / 2;
    let bound = bus as f64 / (f64::from(d.faw_ck) / 4.0).max(bus as f64);
    let reached = utilisation(&chip, 160_000, end);
    assert!(
        reached <= bound && reached > 0.85 * bound,
        "{reached} of {bound}"
    );
    assert!(totals.activations > 19_000);
}

/// One read, one write: a turnaround to writes and back for every batch of writes that a drain empties.
#[test]
fn mixed_traffic_pays_turnarounds() {
    let chip = device(Refresh::None);
    let d = &chip.hbm.timing;
    let request = |i: u64| match i % 2 {
        0 => (i / 2 * 8, 8, Direction::Read),
        _ => ((1 << 22) + i / 2 * 8, 8, Direction::Write),
    };
    let (end, totals) = closed_loop(&chip, 40_000, 64, request);
    let batches = 20_000 * 8 / (256 * 60 / 100);
    let turn = u64::from(d.rtw_ck + d.cwl_ck + d.bl_ck + d.wtrs_ck) * u64::from(d.tck_ps);
    assert_eq!(totals.turnaround, Ps(batches * turn));
    assert_eq!(
        (totals.read_bytes, totals.write_bytes),
        (20_000 * 256, 20_000 * 256)
    );
    let share = totals.turnaround.0 as f64 / end as f64;
    let reached = utilisation(&chip, 320_000, end);
    // An H100's HBM2e reaches 83.6 % at 1:1 and 95.3 % of reads alone; the turnarounds are the difference.
    assert!((0.05..0.20).contains(&share), "{share}");
    assert!((0.78..0.95).contains(&reached), "{reached}");
    assert!(share + reached <= 1.0);
}

/// A bank whose first refresh is still to come, at time 0 and just before it.
#[test]
fn refresh_before_the_first_round_is_no_accident() {
    for refresh in [Refresh::Ab, Refresh::PbBlocking, Refresh::PbBank] {
        let chip = device(refresh);
        for line in 0..2048 {
            let mut hbm = FirstOrder::new(&chip);
            let schedule = submit(&mut hbm, line, line * 8, 8, Direction::Read);
            assert!(schedule.first < schedule.last && schedule.last < Ps(1_000_000));
        }
    }
}
