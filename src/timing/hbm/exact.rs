//! All channels of the chip, exact: a controller and a device each, command by command.
//!
//! Models: every channel as [`super::controller`] has it, on its own half CK, counted in integers, edge `n` at `ceil(n x tCK / 2)` ps. A run
//! becomes bursts that wait, in order by direction, in front of the controller; reads and writes have a port each, up to four
//! bursts enter per half CK, the older run first. A run enters from the first edge after it was submitted. Reads are complete with their last
//! beat; writes are posted: complete when the controller has taken the last burst. Mapping: `co:n,pc,bg,co,ba,sid,ro` with 2^n bursts in a
//! block of `hbm.interleave` (at most a row), so that a block stays in one row of one pseudo channel and blocks go round pseudo channels and
//! bank groups; bank group and bank are xored with all bits of the row, folded.
//! Leaves out: data; refresh management; the order of reads and writes to one line beyond what the controller's queues see.
//!
//! Channels do not see each other: all with work are advanced together, in one go per *epoch*, on as many threads as the host has for it
//! (rayon's pool, which `--threads` sizes). An epoch is a whole number of CK and no longer than [`way_back`], the time that data needs
//! after its end to be anywhere; half a CK if that is less than a CK. Epochs follow each other while a run is under way; idle time has none.
//! Invariants: results depend neither on the length of an epoch nor on when or how often a channel is advanced nor on threads; ends
//! are announced in the first revision at or after them, by (end, channel, order in the channel); nothing is allocated in the steady
//! state. A channel with work that serves nothing for [`PATIENCE`] is not waited for any more.

use super::account::BusAccount;
use super::constraints::Time;
use super::controller::{Config, Controller, FAR, Issued, RowPolicy, Scheduler, Sink};
use super::device::Geometry;
use super::mapping::{Mapping, Place};
use super::{ChannelTotals, Direction, HbmModel, LINE_BYTES, Run, Schedule, way_back};
use crate::chip::{Chip, HbmDevice};
use crate::sim::Ps;
use rayon::prelude::*;
use std::collections::VecDeque;

/// Bursts that enter a controller per half CK.
const PER_HALF_CK: u64 = 4;
/// Half CK without a completion after which a channel is given up: what waits for it is then reported as a deadlock.
const PATIENCE: Time = 1 << 21;
/// No run. Every burst has one now.
const NO_RUN: u32 = u32::MAX;
/// Half CK of channels with runs, summed, from which on threads share an epoch: below (some 50 us of host time), waking them for it
/// costs more than they do.
const SHARED: Time = 1 << 11;

/// All channels.
#[derive(Clone, Debug)]
pub struct Exact {
    channels: Vec<Channel>,
    mapping: Mapping,
    burst_bytes: u64,
    /// Bursts of a block, which differ in their column only: a power of two.
    block: u64,
    tck: u64,
    /// The time of the last submission, and its half CK.
    now: (Ps, Time),
    /// Half CK of an epoch.
    epoch: Time,
    /// The last half CK of the current epoch, if a run is under way.
    end: Option<Time>,
    /// Runs submitted and not announced.
    under_way: u64,
    /// Runs to be announced, by channel, and how many end at each half CK.
    ended: Vec<OpenRun>,
    ends: Vec<u32>,
}

/// A run as submitted. It costs the caller no more than this; the channel takes it when it is advanced.
#[derive(Clone, Copy, Debug)]
struct Arriving {
    tag: u64,
    /// First burst, and how many.
    burst: u64,
    bursts: u32,
    kind: u32,
    /// The half CK from which they may enter.
    arrival: Time,
}

/// Bursts of a run in front of the controller.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// In `Runs::open`, or [`NO_RUN`].
    run: u32,
    /// Order of submission.
    order: u64,
    /// The half CK from which it may enter.
    arrival: Time,
    /// The next burst, and where it is.
    burst: u64,
    place: Place,
    left: u32,
}

/// A run that is not complete.
#[derive(Clone, Copy, Debug)]
struct OpenRun {
    tag: u64,
    left: u32,
    first: Time,
    last: Time,
}

#[derive(Clone, Debug)]
struct Channel {
    /// Submitted since the channel was advanced.
    arriving: Vec<Arriving>,
    controller: Controller,
    runs: Runs,
    /// By direction: reads, writes.
    waiting: [VecDeque<Waiting>; 2],
    /// Bursts in `waiting`.
    waiting_bursts: [u64; 2],
    /// Runs submitted.
    submitted: u64,
    /// The next half CK in which something may happen; everything before is done.
    next: Time,
    /// Since when the channel has nothing to do, or [`FAR`].
    idle_since: Time,
    /// Something that waits may be answered by a buffered write, which takes no time and no room.
    hazard: bool,
    bytes: [u64; 2],
}

/// What the controller reports to: runs under way and where the time of the data buses goes.
#[derive(Clone, Debug)]
struct Runs {
    open: Vec<OpenRun>,
    free: Vec<u32>,
    /// Open runs by direction.
    open_count: [u32; 2],
    /// Complete and not yet announced, in the order in which that came to be known.
    closed: Vec<OpenRun>,
    /// When a run was last completed or begun.
    progress: Time,
    burst: Time,
    account: BusAccount,
}

impl Runs {
    fn begin(&mut self, direction: usize, tag: u64, lines: u32, now: Time) -> u32 {
        if self.open_count == [0, 0] {
            self.progress = now;
        }
        self.open_count[direction] += 1;
        let run = OpenRun {
            tag,
            left: lines,
            first: FAR,
            last: 0,
        };
        match self.free.pop() {
            Some(index) => {
                self.open[index as usize] = run;
                index
            }
            None => {
                self.open.push(run);
                self.open.len() as u32 - 1
            }
        }
    }

    /// A burst of a run took from `first` to `last`.
    #[inline]
    fn served(&mut self, direction: usize, index: u32, first: Time, last: Time) {
        let run = &mut self.open[index as usize];
        run.first = run.first.min(first);
        run.last = run.last.max(last);
        run.left -= 1;
        if run.left == 0 {
            self.closed.push(*run);
            self.free.push(index);
            self.open_count[direction] -= 1;
        }
    }
}

impl Sink for Runs {
    #[inline]
    fn read_done(&mut self, tag: u64, accepted: Time, end: Time) {
        let first = end.saturating_sub(self.burst).max(accepted);
        self.progress = end;
        self.served(0, tag as u32, first, end);
    }

    #[inline]
    fn write_done(&mut self, _tag: u64, _accepted: Time, at: Time) {
        self.progress = at;
    }

    #[inline]
    fn command(&mut self, issued: Issued) {
        self.account.command(&issued);
    }
}

/// The run's index by its direction.
#[inline]
fn index(direction: Direction) -> usize {
    match direction {
        Direction::Read => 0,
        Direction::Write => 1,
    }
}

impl Channel {
    fn new(d: &HbmDevice, config: Config) -> Channel {
        let controller = Controller::new(d, config);
        let geometry = *controller.geometry();
        Channel {
            runs: Runs {
                open: Vec::new(),
                free: Vec::new(),
                open_count: [0; 2],
                closed: Vec::new(),
                progress: 0,
                burst: 2 * Time::from(d.bl_ck),
                account: BusAccount::new(d, &geometry, config.refresh),
            },
            arriving: Vec::new(),
            controller,
            waiting: [VecDeque::new(), VecDeque::new()],
            waiting_bursts: [0; 2],
            submitted: 0,
            next: 0,
            idle_since: 0,
            hazard: false,
            bytes: [0; 2],
        }
    }

    /// Whether bursts from `first` to `end` may meet a buffered write, now or once what waits has entered.
    fn may_meet(&self, kind: usize, first: u64, end: u64) -> bool {
        let overlaps = |kind: usize| {
            let mut waiting = self.waiting[kind].iter();
            waiting.any(|w| w.burst < end && first < w.burst + u64::from(w.left))
        };
        (first..end).any(|burst| self.controller.absorbs(burst))
            || overlaps(1)
            || kind == 1 && overlaps(0)
    }

    /// Queues what was submitted since the last time.
    fn take(&mut self, block: u64, mapping: &Mapping) {
        let mut arriving = std::mem::take(&mut self.arriving);
        for run in arriving.drain(..) {
            let (kind, bursts) = (run.kind as usize, u64::from(run.bursts));
            if self.waiting_bursts == [0, 0] {
                // Idle time is skipped, but not with work in sight.
                self.advance(run.arrival - 1, block, mapping);
            }
            self.hazard |= self.may_meet(kind, run.burst, run.burst + bursts);
            self.waiting_bursts[kind] += bursts;
            self.waiting[kind].push_back(Waiting {
                run: self.runs.begin(kind, run.tag, run.bursts, run.arrival),
                order: self.submitted,
                arrival: run.arrival,
                burst: run.burst,
                place: mapping.place(run.burst),
                left: run.bursts,
            });
            self.submitted += 1;
            self.next = self.next.min(run.arrival);
            self.idle_since = FAR;
        }
        self.arriving = arriving;
    }

    /// Whether the first that waits in a direction finds room.
    #[inline]
    fn can_enter(&self, kind: usize, waiting: &Waiting) -> bool {
        self.controller.has_room(kind == 1) || self.hazard && self.controller.absorbs(waiting.burst)
    }

    /// Lets a burst enter the controller: of those that can, that of the oldest run.
    #[inline]
    fn enter(&mut self, now: Time, block: u64, mapping: &Mapping) -> bool {
        let order = |kind: usize| {
            self.waiting[kind]
                .front()
                .filter(|w| w.arrival <= now && self.can_enter(kind, w))
                .map_or(u64::MAX, |w| w.order)
        };
        let (read, write) = (order(0), order(1));
        if read.min(write) == u64::MAX {
            return false;
        }
        let kind = usize::from(write < read);
        let Some(w) = self.waiting[kind].front_mut() else {
            return false;
        };
        let (run, burst, place) = (w.run, w.burst, w.place);
        w.left -= 1;
        if w.left == 0 {
            self.waiting[kind].pop_front();
        } else {
            w.burst += 1;
            if w.burst & (block - 1) == 0 {
                w.place = mapping.place(w.burst);
            } else {
                w.place.column += 1;
            }
        }
        self.waiting_bursts[kind] -= 1;
        let before = self.controller.queues.len[kind];
        let (tag, write) = (u64::from(run), kind == 1);
        let sink = &mut self.runs;
        let taken = self.controller.accept(now, tag, burst, &place, write, sink);
        debug_assert!(taken, "room was checked");
        if self.controller.queues.len[kind] > before {
            self.runs.account.entered(place.pc, now);
        }
        if write && run != NO_RUN {
            self.runs.served(1, run, now, now);
        }
        true
    }

    /// Does all that happens up to half CK `until`.
    fn advance(&mut self, until: Time, block: u64, mapping: &Mapping) {
        while self.next <= until {
            let now = self.next;
            let mut waits = self.waiting_bursts != [0, 0];
            if waits {
                for _ in 0..PER_HALF_CK {
                    if !self.enter(now, block, mapping) {
                        break;
                    }
                }
                waits = self.waiting_bursts != [0, 0];
                self.hazard &= waits;
            }
            self.controller.step(now, &mut self.runs);
            let mut next = FAR;
            if waits {
                for kind in 0..2 {
                    if let Some(w) = self.waiting[kind].front()
                        && self.can_enter(kind, w)
                    {
                        next = next.min(w.arrival.max(now + 1));
                    }
                }
            } else if self.controller.is_idle() {
                if self.idle_since == FAR {
                    self.idle_since = now;
                }
                let idle_since = self.idle_since;
                self.controller.skip_rounds(idle_since, now, until + 1);
            }
            self.next = self.controller.next_event(now).min(next);
        }
    }

    /// Whether there is anything to do but to refresh.
    fn has_work(&self) -> bool {
        self.idle_since == FAR || !self.arriving.is_empty()
    }

    /// Whether a run may still be complete one day, seen from half CK `now`.
    fn is_alive(&self, now: Time) -> bool {
        let stuck = self.next == FAR || now.saturating_sub(self.runs.progress) > PATIENCE;
        !self.runs.closed.is_empty() || self.runs.open_count != [0, 0] && !stuck
    }
}

impl Exact {
    /// The channels of a chip, all banks closed.
    pub fn new(chip: &Chip) -> Exact {
        let hbm = &chip.hbm;
        let d = &hbm.timing;
        let geometry = Geometry::new(d);
        let burst_bytes = u64::from(d.burst_bytes);
        let block = (u64::from(hbm.interleave_bytes) / burst_bytes)
            .min(u64::from(d.columns))
            .max(1);
        let mapping = mapping(geometry, block.trailing_zeros());
        let config = Config {
            read_queue: hbm.read_queue,
            write_queue: hbm.write_queue,
            low: f64::from(hbm.write_low_permille) / 1000.0,
            high: f64::from(hbm.write_high_permille) / 1000.0,
            scheduler: Scheduler::FrFcfsRowHit,
            row_policy: RowPolicy::Open,
            refresh: hbm.refresh,
            ..Config::default()
        };
        Exact {
            channels: vec![Channel::new(d, config); chip.hbm_channels() as usize],
            mapping,
            burst_bytes,
            block,
            tck: u64::from(d.tck_ps),
            now: (Ps::ZERO, 0),
            epoch: (way_back(chip).0 / u64::from(d.tck_ps) * 2).max(1),
            end: None,
            under_way: 0,
            ended: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// The time of an edge.
    fn time(&self, half: Time) -> Ps {
        Ps((half * self.tck).div_ceil(2))
    }

    /// The last edge that is not after a time.
    fn half(&self, t: Ps) -> Time {
        t.0.saturating_mul(2) / self.tck
    }

    /// A channel's mapping of bursts to places.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Makes epochs shorter: `ck`, if that is less than they are. Changes no result.
    pub fn with_epoch(mut self, ck: u32) -> Exact {
        self.epoch = self.epoch.min(2 * Time::from(ck)).max(1);
        self
    }

    /// Does in all channels with work what happens up to half CK `until`.
    fn advance(&mut self, until: Time) {
        let (block, mapping) = (self.block, &self.mapping);
        let work = |channel: &mut Channel| {
            if channel.has_work() {
                channel.take(block, mapping);
                channel.advance(until, block, mapping);
            }
        };
        let busy = self.under_way.min(self.channels.len() as u64);
        if busy * self.epoch >= SHARED && rayon::current_num_threads() > 1 {
            self.channels.par_iter_mut().for_each(work);
        } else {
            self.channels.iter_mut().for_each(work);
        }
    }
}

/// `co:n,pc,bg,co,ba,sid,ro` with the row folded into bank group and bank.
fn mapping(geometry: Geometry, block_bits: u32) -> Mapping {
    let mut text = match block_bits {
        0 => "pc,bg".to_owned(),
        n => format!("co:{n},pc,bg"),
    };
    if block_bits < geometry.columns.trailing_zeros() {
        text.push_str(",co");
    }
    text.push_str(",ba,sid,ro");
    let row_bits = geometry.rows.next_power_of_two().trailing_zeros();
    let mut fields = [("bg", geometry.groups), ("ba", geometry.banks_per_group)]
        .into_iter()
        .filter(|(_, size)| *size > 1)
        .collect::<Vec<_>>()
        .into_iter()
        .cycle();
    let mut at = 0;
    while at < row_bits
        && let Some((field, size)) = fields.next()
    {
        let width = size.trailing_zeros().min(row_bits - at);
        text.push_str(&format!(",^{field}=ro[{}:{at}]", at + width - 1));
        at += width;
    }
    Mapping::parse(&text, geometry).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// Sorts runs by their end; those of one end stay as they are. Ends of an epoch are many on few half CK: these are counted.
fn in_order(runs: &mut Vec<OpenRun>, ends: &mut Vec<u32>) {
    let last = |run: &OpenRun| run.last;
    let (Some(first), Some(end)) = (runs.iter().map(last).min(), runs.iter().map(last).max())
    else {
        return;
    };
    if end - first > 4 * runs.len() as u64 {
        return runs.sort_by_key(last);
    }
    ends.clear();
    ends.resize((end - first) as usize + 2, 0);
    for run in &*runs {
        ends[(run.last - first) as usize + 1] += 1;
    }
    for i in 1..ends.len() {
        ends[i] += ends[i - 1];
    }
    // The sorted runs come after the others, which then go.
    let count = runs.len();
    runs.extend_from_within(..);
    for i in 0..count {
        let place = &mut ends[(runs[i].last - first) as usize];
        let to = count + *place as usize;
        *place += 1;
        runs[to] = runs[i];
    }
    runs.drain(..count);
}

impl HbmModel for Exact {
    fn submit(&mut self, now: Ps, run: Run) -> Schedule {
        if self.now.0 != now {
            self.now = (now, self.half(now));
        }
        let arrival = self.now.1 + 1;
        // A burst's bytes are a power of two.
        let shift = self.burst_bytes.trailing_zeros();
        let end = (run.line + u64::from(run.lines)) * LINE_BYTES + self.burst_bytes - 1;
        let (first, end) = ((run.line * LINE_BYTES) >> shift, end >> shift);
        let kind = index(run.direction);
        let channel = &mut self.channels[run.channel as usize];
        channel.bytes[kind] += u64::from(run.lines) * LINE_BYTES;
        channel.arriving.push(Arriving {
            tag: run.tag,
            burst: first,
            bursts: (end - first) as u32,
            kind: kind as u32,
            arrival,
        });
        self.under_way += 1;
        self.end.get_or_insert(arrival - 1 + self.epoch);
        Schedule {
            first: self.time(arrival),
            last: Schedule::OPEN,
        }
    }

    fn next_revision(&self) -> Option<Ps> {
        self.end.map(|end| self.time(end))
    }

    fn revise(&mut self, now: Ps, revised: &mut Vec<(u64, Schedule)>) {
        let until = self.half(now);
        self.advance(until);
        let mut ended = std::mem::take(&mut self.ended);
        let mut alive = false;
        for channel in &mut self.channels {
            channel.runs.closed.retain(|run| {
                let over = run.last <= until;
                if over {
                    ended.push(*run);
                }
                !over
            });
            alive |= channel.is_alive(until);
        }
        in_order(&mut ended, &mut self.ends);
        self.under_way -= ended.len() as u64;
        self.end = alive.then_some(until + self.epoch);
        revised.extend(ended.drain(..).map(|run| {
            let (first, last) = (self.time(run.first), self.time(run.last));
            (run.tag, Schedule { first, last })
        }));
        self.ended = ended;
    }

    fn totals(&mut self, end: Ps) -> Vec<ChannelTotals> {
        let until = self.half(end);
        let (block, mapping, tck) = (self.block, &self.mapping, self.tck);
        let totals = self.channels.iter_mut().map(|channel| {
            channel.take(block, mapping);
            channel.advance(until, block, mapping);
            ChannelTotals {
                read_bytes: channel.bytes[0],
                write_bytes: channel.bytes[1],
                ..channel.runs.account.totals(tck)
            }
        });
        totals.collect()
    }
}
