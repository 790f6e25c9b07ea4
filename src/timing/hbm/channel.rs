//! A channel under the chip: runs wait in front of its controller, and their ends are kept until the chip asks.
//!
//! Models: reads and writes wait in a line each, in order of submission; of the two that could enter the older does. A run ends with the last
//! beat of its last read, or when its last write has entered. Leaves out: time outside the channel, and what the controller does.
//! Invariants: a channel that is advanced later or more often does the same; idle time is skipped, but never with work in sight.

use super::ChannelTotals;
use super::account::BusAccount;
use super::advance::{Feed, Head, PORTS};
use super::constraints::Time;
use super::controller::{Config, Controller, FAR, Issued, Sink};
use super::mapping::Mapping;
use crate::chip::HbmDevice;
use std::collections::VecDeque;

/// Half CK without a completion after which a channel is given up: what waits for it is then reported as a deadlock.
const PATIENCE: Time = 1 << 21;

/// Where a channel's bursts lie.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub mapping: Mapping,
    /// Bursts of a block, which differ in their column only: a power of two.
    pub block: u64,
}

/// A run as submitted. It costs the caller no more than this; the channel takes it when it is advanced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arriving {
    pub tag: u64,
    /// First burst, and how many.
    pub burst: u64,
    pub bursts: u32,
    pub write: bool,
    /// The half CK from which they may enter.
    pub arrival: Time,
}

/// A run that is complete.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub tag: u64,
    pub first: Time,
    pub last: Time,
}

/// A run whose bursts wait in front of the controller.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// In `Port::open`.
    run: u32,
    order: u64,
    arrival: Time,
    /// The next burst to become a head, and how many are left with it.
    burst: u64,
    left: u32,
}

/// A run that is not complete.
#[derive(Clone, Copy, Debug)]
struct OpenRun {
    left: u32,
    ended: Ended,
}

/// A channel.
#[derive(Clone, Debug)]
pub(super) struct Channel {
    /// Submitted since the channel was advanced.
    arriving: Vec<Arriving>,
    controller: Controller,
    front: Front,
    /// The next half CK in which something may happen; everything before is done.
    next: Time,
    bytes: [u64; 2],
}

/// What is in front of the controller, and what it reports to.
#[derive(Clone, Debug)]
struct Front {
    /// By direction: reads, writes.
    waiting: [VecDeque<Waiting>; PORTS],
    heads: [Head; PORTS],
    /// Runs submitted.
    submitted: u64,
    open: Vec<OpenRun>,
    free: Vec<u32>,
    open_count: u32,
    /// Complete and not yet announced, in the order in which that came to be known.
    closed: Vec<Ended>,
    /// When a run was last completed or begun.
    progress: Time,
    /// Half CK of a burst on the bus.
    beat: Time,
    account: BusAccount,
}

impl Front {
    /// Queues a run.
    fn take(&mut self, run: &Arriving, layout: &Layout) {
        if self.open_count == 0 {
            self.progress = run.arrival;
        }
        self.open_count += 1;
        let open = OpenRun {
            left: run.bursts,
            ended: Ended {
                tag: run.tag,
                first: FAR,
                last: 0,
            },
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.open[index as usize] = open;
                index
            }
            None => {
                self.open.push(open);
                self.open.len() as u32 - 1
            }
        };
        let port = usize::from(run.write);
        self.waiting[port].push_back(Waiting {
            run: index,
            order: self.submitted,
            arrival: run.arrival,
            burst: run.burst,
            left: run.bursts,
        });
        self.submitted += 1;
        if self.heads[port].run == 0 {
            self.fill(port, layout);
        }
    }

    /// Makes the rest of the first block that waits the head of a port.
    fn fill(&mut self, port: usize, layout: &Layout) {
        let waiting = &mut self.waiting[port];
        let Some(w) = waiting.front_mut() else {
            self.heads[port] = Head::NONE;
            return;
        };
        let to_block_end = layout.block - (w.burst & (layout.block - 1));
        let run = u64::from(w.left).min(to_block_end);
        self.heads[port] = Head {
            arrival: w.arrival,
            order: w.order,
            tag: w.run.into(),
            place: layout.mapping.place(w.burst),
            run: run as u32,
            write: port == 1,
        };
        w.burst += run;
        w.left -= run as u32;
        if w.left == 0 {
            waiting.pop_front();
        }
    }

    /// `count` bursts of a run took from `first` to `last`.
    #[inline]
    fn served(&mut self, index: u64, count: u32, first: Time, last: Time) {
        let run = &mut self.open[index as usize];
        run.ended.first = run.ended.first.min(first);
        run.ended.last = run.ended.last.max(last);
        run.left -= count;
        if run.left == 0 {
            self.closed.push(run.ended);
            self.free.push(index as u32);
            self.open_count -= 1;
        }
    }
}

/// The front while the channel is advanced.
struct Fed<'a> {
    front: &'a mut Front,
    layout: &'a Layout,
}

impl Feed for Fed<'_> {
    #[inline]
    fn heads(&self) -> &[Head; PORTS] {
        &self.front.heads
    }

    #[inline]
    fn entered(&mut self, port: usize, now: Time, count: u32, waits: bool) {
        let front = &mut *self.front;
        let head = &mut front.heads[port];
        let (tag, pc) = (head.tag, head.place.pc);
        head.run -= count;
        head.place.column += count;
        if head.run == 0 {
            front.fill(port, self.layout);
        }
        if waits {
            front.account.entered(pc, now, count);
        }
        if port == 1 {
            front.served(tag, count, now, now);
        }
    }
}

impl Sink for Fed<'_> {
    #[inline(always)]
    fn read_done(&mut self, tag: u64, accepted: Time, end: Time) {
        let front = &mut *self.front;
        let first = end.saturating_sub(front.beat).max(accepted);
        front.progress = end;
        front.served(tag, 1, first, end);
    }

    #[inline]
    fn write_done(&mut self, _tag: u64, _accepted: Time, at: Time) {
        self.front.progress = at;
    }

    #[inline(always)]
    fn command(&mut self, issued: Issued) {
        self.front.account.command(&issued);
    }
}

impl Channel {
    /// A channel at rest.
    pub fn new(d: &HbmDevice, config: Config) -> Channel {
        let controller = Controller::new(d, config);
        let account = BusAccount::new(d, controller.geometry(), config.refresh);
        Channel {
            arriving: Vec::new(),
            controller,
            front: Front {
                waiting: [VecDeque::new(), VecDeque::new()],
                heads: [Head::NONE; PORTS],
                submitted: 0,
                open: Vec::new(),
                free: Vec::new(),
                open_count: 0,
                closed: Vec::new(),
                progress: 0,
                beat: 2 * Time::from(d.bl_ck),
                account,
            },
            next: 0,
            bytes: [0; 2],
        }
    }

    /// Notes a run of so many bytes.
    #[inline]
    pub fn submit(&mut self, run: Arriving, bytes: u64) {
        self.bytes[usize::from(run.write)] += bytes;
        self.arriving.push(run);
    }

    /// Does all that happens up to half CK `until`.
    pub fn advance(&mut self, until: Time, layout: &Layout) {
        self.controller.fetch();
        let mut arriving = std::mem::take(&mut self.arriving);
        for run in arriving.drain(..) {
            if self.front.heads.iter().all(|head| head.run == 0) {
                // Idle time is skipped, but not with work in sight.
                self.pass(run.arrival - 1, layout);
            }
            self.front.take(&run, layout);
            self.next = self.next.min(run.arrival);
        }
        self.arriving = arriving;
        self.pass(until, layout);
    }

    fn pass(&mut self, until: Time, layout: &Layout) {
        let front = &mut self.front;
        let mut fed = Fed { front, layout };
        self.next = self.controller.advance(self.next, until, &mut fed, false);
    }

    /// Whether there is anything to do but to refresh.
    #[inline]
    pub fn has_work(&self) -> bool {
        !self.arriving.is_empty() || !self.controller.is_idle() || self.front.open_count > 0
    }

    /// Whether a run may still be complete one day, seen from half CK `now`.
    pub fn is_alive(&self, now: Time) -> bool {
        let front = &self.front;
        let stuck = self.next == FAR || now.saturating_sub(front.progress) > PATIENCE;
        !front.closed.is_empty() || front.open_count > 0 && !stuck
    }

    /// Moves the runs that were complete at half CK `until` to the others.
    pub fn ended(&mut self, until: Time, ended: &mut Vec<Ended>) {
        self.front.closed.retain(|run| {
            let over = run.last <= until;
            if over {
                ended.push(*run);
            }
            !over
        });
    }

    /// Where the time went and what was moved.
    pub fn totals(&self, tck: u64) -> ChannelTotals {
        ChannelTotals {
            read_bytes: self.bytes[0],
            write_bytes: self.bytes[1],
            ..self.front.account.totals(tck)
        }
    }
}
