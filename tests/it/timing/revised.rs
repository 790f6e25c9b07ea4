//! The HBM interface: a model that revises its schedules moves the run's end and nothing else.

use super::*;
use tilewright::timing::hbm::first_order::FirstOrder;
use tilewright::timing::hbm::{ChannelTotals, Direction, HbmModel, Run, Schedule};

/// First promises every run `early` ps too soon or too late, then corrects it once, before the true first beat.
struct Revising {
    inner: FirstOrder,
    promise: i64,
    /// True schedules not yet announced: when to, tag, schedule.
    pending: Vec<(Ps, u64, Schedule)>,
}

fn moved(t: Ps, by: i64) -> Ps {
    Ps(t.0.saturating_add_signed(by))
}

impl HbmModel for Revising {
    fn submit(&mut self, now: Ps, run: Run) -> Schedule {
        let truth = self.inner.submit(now, run);
        // Writes are posted: their schedule is when the controller takes them, which this model leaves alone.
        if run.direction == Direction::Write {
            return truth;
        }
        self.pending.push((now + Ps(100), run.tag, truth));
        Schedule {
            first: moved(truth.first, self.promise),
            last: moved(truth.last, self.promise).max(now + Ps(200)),
        }
    }

    fn next_revision(&self) -> Option<Ps> {
        self.pending.iter().map(|p| p.0).min()
    }

    fn revise(&mut self, now: Ps, revised: &mut Vec<(u64, Schedule)>) {
        let due = |p: &(Ps, u64, Schedule)| p.0 <= now;
        revised.extend(self.pending.iter().filter(|p| due(p)).map(|p| (p.1, p.2)));
        self.pending.retain(|p| !due(p));
    }

    fn totals(&mut self, end: Ps) -> Vec<ChannelTotals> {
        self.inner.totals(end)
    }
}

#[test]
fn a_revised_schedule_ends_like_one_that_was_right_at_once() {
    let text = include_str!("../../../programs/kernels/vector_add.s");
    let mut chip = Chip::preset("mini").unwrap();
    // Wide stack ports, so that no run's end hangs on the port, which keeps its first booking.
    chip.noc.stack_port_bytes = 1 << 16;
    let load = || machine(&chip, image(text), true);
    let plain = timing::run(load(), &TimedOptions::default()).unwrap();
    // Too soon: the end comes later than promised. A promise too late would hold the port; it may not end sooner.
    for promise in [-20_000, -1, 0] {
        let model = Revising {
            inner: FirstOrder::new(&chip),
            promise,
            pending: Vec::new(),
        };
        let run = timing::run_with(load(), &TimedOptions::default(), Box::new(model)).unwrap();
        assert_eq!(run.cycles, plain.cycles, "promised {promise} ps off");
        let tensors = |r: &TimedRun| {
            r.machine
                .image
                .tensors
                .iter()
                .map(|t| r.machine.tensor_bytes(&t.name).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(tensors(&run), tensors(&plain));
    }
    let model = Revising {
        inner: FirstOrder::new(&chip),
        promise: 50_000,
        pending: Vec::new(),
    };
    let late = timing::run_with(load(), &TimedOptions::default(), Box::new(model)).unwrap();
    assert!(late.cycles >= plain.cycles);
}
