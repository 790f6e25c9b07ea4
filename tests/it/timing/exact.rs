//! The chip's exact HBM: each channel against its controller driven half CK by half CK, and the chip on it.

use super::*;
use proptest::prelude::*;
use tilewright::chip::ChannelModel;
use tilewright::compiler::{self, Matmul, MatmulType};
use tilewright::num::random::splitmix64;
use tilewright::timing::hbm::controller::{Config, Controller, Sink};
use tilewright::timing::hbm::exact::Exact;
use tilewright::timing::hbm::{Direction, HbmModel, Run, Schedule, way_back};

fn exact(refresh: Refresh) -> Chip {
    let mut chip = Chip::preset("mini").unwrap();
    chip.hbm.model = ChannelModel::Exact;
    chip.hbm.refresh = refresh;
    chip
}

/// When each run is submitted, and what it is; the tag is its number.
type Arrivals = Vec<(Ps, Run)>;

/// First and last time of each run, and the order in which they were announced; with epochs of so many CK.
fn through_the_model(
    chip: &Chip,
    arrivals: &Arrivals,
    polls: u64,
    epoch: u32,
) -> (Vec<Schedule>, Vec<u64>) {
    let mut model = Exact::new(chip).with_epoch(epoch);
    let back = way_back(chip);
    let mut schedules = Vec::new();
    let mut revised = Vec::new();
    let mut order = Vec::new();
    let mut look = |model: &mut Exact, until: Ps, schedules: &mut Vec<Schedule>| {
        while let Some(at) = model.next_revision().filter(|at| *at <= until) {
            model.revise(at, &mut revised);
            for (tag, schedule) in revised.drain(..) {
                let end = schedule.last;
                assert!(end <= at, "announced before it was: {schedule:?} at {at}");
                let in_time = end == at || end + back > at;
                assert!(in_time, "announced late: {schedule:?} at {at}");
                assert!(schedules[tag as usize].is_open());
                order.push(tag);
                schedules[tag as usize] = schedule;
            }
        }
    };
    let mut now = Ps::ZERO;
    for (number, (at, run)) in arrivals.iter().enumerate() {
        // Looks that nobody asked for change nothing.
        for i in 0..polls {
            let early = Ps(now.0 + splitmix64(i, number as u64) % (at.0 - now.0 + 1));
            look(&mut model, early, &mut schedules);
            let mut extra = Vec::new();
            model.revise(early.max(now), &mut extra);
            for (tag, schedule) in extra {
                schedules[tag as usize] = schedule;
            }
            now = early.max(now);
        }
        look(&mut model, *at, &mut schedules);
        now = *at;
        let schedule = model.submit(*at, *run);
        schedules.push(schedule);
    }
    look(&mut model, Ps::MAX, &mut schedules);
    assert!(schedules.iter().all(|s| !s.is_open()));
    (schedules, order)
}

/// Ends of reads by tag.
struct Ends(Vec<u64>);

impl Sink for Ends {
    fn read_done(&mut self, tag: u64, _accepted: u64, end: u64) {
        let last = &mut self.0[tag as usize];
        *last = end.max(*last);
    }

    fn write_done(&mut self, _tag: u64, _accepted: u64, _at: u64) {}
}

/// The same by a controller alone: bursts in order of arrival at a port for reads and one for writes, four per half CK, every half CK
/// stepped through. Ends only.
fn by_hand(chip: &Chip, arrivals: &Arrivals) -> Vec<Ps> {
    let d = &chip.hbm.timing;
    let config = Config {
        read_queue: chip.hbm.read_queue,
        write_queue: chip.hbm.write_queue,
        refresh: chip.hbm.refresh,
        ..Config::default()
    };
    let mapping = Exact::new(chip).mapping().clone();
    let mut controller = Controller::new(d, config);
    let mut ends = Ends(vec![0; arrivals.len()]);
    let mut ports = [std::collections::VecDeque::new(), Default::default()];
    let mut order = 0;
    for (at, run) in arrivals {
        let write = run.direction == Direction::Write;
        let arrival = at.0 * 2 / u64::from(d.tck_ps) + 1;
        for line in run.line..run.line + u64::from(run.lines) {
            ports[usize::from(write)].push_back((order, arrival, run.tag, line));
            order += 1;
        }
    }
    let mut now = 0;
    while ports.iter().any(|p| !p.is_empty()) || !controller.is_idle() {
        for _ in 0..4 {
            let can = |write: usize| {
                let head = ports[write].front();
                head.filter(|(_, arrival, _, line)| {
                    let place = mapping.place(*line);
                    let enters = controller.has_room(write == 1) || controller.absorbs(&place);
                    *arrival <= now && enters
                })
            };
            let first = (0..2).filter_map(|w| Some((can(w)?.0, w))).min();
            let Some((_, write)) = first else { break };
            let (_, _, tag, line) = ports[write].pop_front().unwrap();
            let place = mapping.place(line);
            assert!(controller.accept(now, tag, &place, write == 1, &mut ends));
            if write == 1 {
                ends.0[tag as usize] = now;
            }
        }
        controller.step(now, &mut ends);
        now += 1;
    }
    let ps = |half: u64| Ps((half * u64::from(d.tck_ps)).div_ceil(2));
    ends.0.into_iter().map(ps).collect()
}

/// Runs of blocks at places that a few rows and banks share, some of them one upon the other.
fn arrivals() -> impl Strategy<Value = Arrivals> {
    let run = (
        0u64..6000,
        0u64..40,
        0u64..6,
        prop_oneof![Just(8u32), 1u32..40],
        0u32..4,
    );
    (
        prop::collection::vec(run, 1..300),
        0u32..5,
        prop_oneof![Just(1u64), Just(20), Just(1000)],
    )
        .prop_map(|(runs, writes, slower)| {
            let mut at = 0;
            let run = |(number, (gap, block, row, lines, kind)): (usize, _)| {
                let (gap, block, row): (u64, u64, u64) = (gap, block, row);
                at += gap * slower / 10;
                let direction = match kind < writes {
                    true => Direction::Write,
                    false => Direction::Read,
                };
                let run = Run {
                    channel: 0,
                    line: row * 49_152 + block * 8,
                    lines,
                    direction,
                    tag: number as u64,
                };
                (Ps(at), run)
            };
            runs.into_iter().enumerate().map(run).collect()
        })
}

fn refresh() -> impl Strategy<Value = Refresh> {
    prop::sample::select(vec![
        Refresh::None,
        Refresh::Ab,
        Refresh::PbBlocking,
        Refresh::PbBank,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn a_channel_of_the_chip_is_the_channel_alone(
        arrivals in arrivals(),
        refresh in refresh(),
        queues in prop_oneof![Just((256, 256)), Just((16, 20))],
        polls in 0u64..3,
        epoch in prop_oneof![Just(1u32), Just(7), Just(u32::MAX)],
        back in prop_oneof![3 => Just((25, 40)), 1 => Just((0, 0)), 1 => Just((1, 0))],
    ) {
        let mut chip = exact(refresh);
        (chip.hbm.path.phy_back_ns, chip.hbm.path.controller_back_ns) = back;
        (chip.hbm.read_queue, chip.hbm.write_queue) = queues;
        let (schedules, _) = through_the_model(&chip, &arrivals, polls, epoch);
        for (schedule, (at, _)) in schedules.iter().zip(&arrivals) {
            prop_assert!(*at < schedule.first && schedule.first <= schedule.last);
        }
        let ends: Vec<Ps> = schedules.iter().map(|s| s.last).collect();
        prop_assert_eq!(ends, by_hand(&chip, &arrivals));
    }
}

/// A saturated channel: its time is accounted for to the last, and most of it is data.
#[test]
fn the_time_of_a_busy_channel_is_explained() {
    for (refresh, writes, least) in [
        (Refresh::None, 0, 0.95),
        (Refresh::PbBank, 0, 0.90),
        (Refresh::PbBank, 3, 0.70),
        (Refresh::Ab, 0, 0.80),
    ] {
        let chip = exact(refresh);
        let mut model = Exact::new(&chip);
        let blocks = 20_000;
        let mut ends = vec![Ps::ZERO; blocks];
        let (mut revised, mut now) = (Vec::new(), Ps::ZERO);
        for i in 0..blocks {
            // At most 512 blocks under way: twice what the read queue holds, so that an epoch never finds it empty.
            while i >= 512 && ends[i - 512] >= now {
                let (at, end) = (model.next_revision(), ends[i - 512]);
                match at {
                    Some(at) if end == Schedule::OPEN || at <= end => {
                        model.revise(at, &mut revised);
                        now = now.max(at);
                        for (tag, schedule) in revised.drain(..) {
                            ends[tag as usize] = schedule.last;
                        }
                    }
                    _ => now = end + Ps(1),
                }
            }
            let write = i % 8 < writes;
            let run = Run {
                channel: 0,
                line: i as u64 * 8 + if write { 1 << 22 } else { 0 },
                lines: 8,
                direction: if write {
                    Direction::Write
                } else {
                    Direction::Read
                },
                tag: i as u64,
            };
            ends[i] = model.submit(now, run).last;
        }
        let t = model.totals(now)[0];
        let d = &chip.hbm.timing;
        assert_eq!(t.read_bytes + t.write_bytes, 256 * blocks as u64);
        let all = t.data + t.activate + t.latency + t.refresh + t.turnaround;
        let share = |part: Ps| part.0 as f64 / now.0 as f64;
        // What follows the last command of a bus is not accounted for yet.
        assert!((0.99..=1.001).contains(&share(all)), "{t:?} of {now}");
        assert!(
            share(t.data) > least,
            "{refresh:?} {writes}: {t:?} of {now}"
        );
        let burst = u64::from(d.bl_ck) * u64::from(d.tck_ps) / 2;
        assert_eq!(t.data.0 % burst, 0);
        assert_eq!(t.turnaround > Ps::ZERO, writes > 0);
        assert!(refresh != Refresh::Ab || share(t.refresh) > 0.02, "{t:?}");
    }
}

/// Row hit CL + BL, closed bank RCDRD + CL + BL, conflict RP + RCDRD + CL + BL, to a CK, from the edge at which a read enters.
#[test]
fn idle_latencies_are_the_closed_forms() {
    let chip = exact(Refresh::None);
    let d = &chip.hbm.timing;
    let ck = |n: u32| 2 * u64::from(n);
    let mapping = Exact::new(&chip).mapping().clone();
    let other = (1..1 << 24)
        .step_by(8)
        .find(|line| {
            let (a, b) = (mapping.place(0), mapping.place(*line));
            (a.pc, a.sid, a.group, a.bank) == (b.pc, b.sid, b.group, b.bank) && a.row != b.row
        })
        .unwrap();
    let read = |at: u64, line| {
        let run = Run {
            channel: 0,
            line,
            lines: 1,
            direction: Direction::Read,
            tag: 0,
        };
        (Ps(at), run)
    };
    let tck = u64::from(d.tck_ps);
    // An odd half CK before an even one, so that a read finds its edge at once.
    let at = |n: u64| (n * 2000 + 1) * tck / 2;
    let mut runs = vec![read(at(0), 0), read(at(1), 1), read(at(2), other)];
    for (tag, run) in runs.iter_mut().enumerate() {
        run.1.tag = tag as u64;
    }
    let (schedules, _) = through_the_model(&chip, &runs, 0, u32::MAX);
    let latency = |i: usize| {
        let arrival = runs[i].0.0 * 2 / tck + 1;
        schedules[i].last.0 * 2 / tck - arrival
    };
    let column = d.cl_ck + d.bl_ck;
    assert_eq!(latency(1), ck(column));
    for (i, closed_form) in [(0, d.rcdrd_ck + column), (2, d.rp_ck + d.rcdrd_ck + column)] {
        assert!(
            latency(i).abs_diff(ck(closed_form)) <= ck(1),
            "{}",
            latency(i)
        );
    }
}

/// `work` on a pool of so many threads.
fn on<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.unwrap().install(work)
}

/// Ends and the order of their announcement, over all channels: neither epochs nor threads change them.
#[test]
fn epochs_and_threads_change_nothing() {
    let mut chip = Chip::preset("maia-200").unwrap();
    chip.hbm.model = ChannelModel::Exact;
    for (seed, refresh, gap) in [
        (1, Refresh::PbBank, 100),
        (2, Refresh::Ab, 1_000),
        (3, Refresh::None, 1_000_000),
    ] {
        chip.hbm.refresh = refresh;
        let mut at = 0;
        let run = |tag: u64| {
            let draw = |i: u64| splitmix64(seed, 8 * tag + i);
            at += if draw(0) % 50 == 0 {
                draw(1) % (200 * gap)
            } else {
                draw(1) % gap
            };
            let run = Run {
                // Many on few channels, so that some fall behind.
                channel: (draw(2) % 96).min(draw(3) % 96) as u32,
                line: draw(4) % 4 * 49_152 + draw(5) % 64 * 8,
                lines: 8,
                direction: match draw(6) % 4 {
                    0 => Direction::Write,
                    _ => Direction::Read,
                },
                tag,
            };
            (Ps(at), run)
        };
        let arrivals: Arrivals = (0..6_000).map(run).collect();
        let base = on(1, || through_the_model(&chip, &arrivals, 0, u32::MAX));
        let ends = base.1.iter().map(|tag| base.0[*tag as usize].last);
        assert!(ends.is_sorted(), "announced in the order of ends");
        for (threads, epoch) in [(1, 1), (2, 7), (5, u32::MAX), (3, 40)] {
            let other = on(threads, || through_the_model(&chip, &arrivals, 0, epoch));
            assert!(other == base, "{threads} threads, epochs of {epoch} CK");
        }
    }
}

/// A whole chip: the same cycles, counters, accounts and bytes, however long the epochs are and on however many threads.
#[test]
fn programs_see_no_epochs() {
    let kernel = |name: &str| {
        let path = format!("{}/programs/kernels/{name}.s", env!("CARGO_MANIFEST_DIR"));
        image(&std::fs::read_to_string(path).unwrap())
    };
    let product = |chip: &Chip| {
        let (m, n, k, dtype) = (500, 700, 900, MatmulType::Fp8);
        let op = compiler::Op::Matmul(Matmul::new(m, n, k, dtype));
        Arc::new(compiler::compile(&op, chip).unwrap().image)
    };
    let mini = exact(Refresh::PbBank);
    let maia = Chip::preset("maia-200").unwrap();
    for (chip, image) in [
        (&mini, kernel("stream_copy")),
        (&mini, kernel("flash_attention")),
        (&maia, kernel("matmul_multicast")),
        (&maia, product(&maia)),
    ] {
        let go = |threads, pool, epoch| {
            let options = TimedOptions {
                threads,
                ..TimedOptions::default()
            };
            let model = Box::new(Exact::new(chip).with_epoch(epoch));
            let machine = machine(chip, image.clone(), false);
            let run = on(pool, || timing::run_with(machine, &options, model));
            run.unwrap_or_else(|e| panic!("{e}"))
        };
        let base = go(1, 1, u32::MAX);
        for (threads, pool, epoch) in [(1, 1, 1), (1, 2, 7), (2, 3, u32::MAX), (1, 1, 60)] {
            let other = go(threads, pool, epoch);
            let what = format!("{threads} and {pool} threads, epochs of {epoch} CK");
            assert_eq!((other.end, other.cycles), (base.end, base.cycles), "{what}");
            assert_eq!(other.counters, base.counters, "{what}");
            assert_eq!(other.trace.accounts, base.trace.accounts, "{what}");
        }
    }
}

/// Refresh that takes longer than its interval lets nothing through. The description refuses it; here it stands for any channel that
/// serves nothing any more.
fn stuck() -> Chip {
    let mut chip = exact(Refresh::Ab);
    let t = &mut chip.hbm.timing;
    (t.refi_ck, t.rfc_ck) = (100, 1_000);
    chip
}

#[test]
fn a_channel_that_serves_nothing_is_given_up() {
    let chip = stuck();
    let patience = Ps((1 << 20) * u64::from(chip.hbm.timing.tck_ps));
    let mut model = Exact::new(&chip);
    let start = Ps(1_000_000);
    let run = |tag, channel| Run {
        channel,
        line: 0,
        lines: 8,
        direction: Direction::Read,
        tag,
    };
    assert!(model.submit(start, run(0, 0)).is_open());
    let (mut last, mut revised) = (start, Vec::new());
    while let Some(at) = model.next_revision() {
        assert!(at > last && at < start + patience + Ps(1_000_000), "{at}");
        model.revise(at, &mut revised);
        last = at;
    }
    assert!(revised.is_empty() && last > start + patience, "{last}");
    // Another channel is waited for again, the first one not.
    model.submit(last, run(1, 1));
    assert!(model.next_revision().is_some_and(|at| at > last));
}

#[test]
fn a_program_on_a_stuck_channel_ends_in_a_deadlock_report() {
    let chip = stuck();
    let text = include_str!("../../../programs/kernels/vector_add.s");
    let Err(error) = timing::run(machine(&chip, image(text), true), &TimedOptions::default())
    else {
        panic!("nothing comes from the HBM");
    };
    assert!(matches!(error, RunError::Deadlock(_)), "{error}");
}
