//! All channels of the chip, exact: a controller and a device each, command by command.
//!
//! Models: every channel as [`super::controller`] has it, on its own half CK, counted in integers, edge `n` at `ceil(n x tCK / 2)` ps. A run
//! becomes bursts that wait, in order by direction, in front of the controller; reads and writes have a port each, up to four
//! bursts enter per half CK, the older run first. A run enters from the first edge after it was submitted. Reads are complete with their last
//! beat; writes are posted: complete when the controller has taken the last burst. Where bursts lie is `hbm.mapping`
//! ([`crate::chip::mapping`]); bursts of an aligned block that the mapping keeps side by side in a row ([`Mapping::column_bits`]) are placed
//! by counting, others one by one: slower, with the same meaning.
//! Leaves out: data; refresh management; the order of reads and writes to one line beyond what the controller's queues see.
//!
//! A channel is advanced late and in one go: what it does depends on runs submitted before, and a read is known to be complete `CL + BL` ahead.
//! So a channel is due only when the earliest completion that it could owe comes. Invariants: results do not depend on when or how often
//! it is advanced; no schedule is announced after its end; nothing is allocated in the steady state.

use super::constraints::{Command, Table, Time};
use super::controller::{Config, Controller, FAR, Issued, RowPolicy, Scheduler, Sink};
use super::device::Geometry;
use super::mapping::{Mapping, Place};
use super::{ChannelTotals, Direction, HbmModel, LINE_BYTES, Run, Schedule};
use crate::chip::{Chip, HbmDevice, Refresh, mapping};
use crate::sim::Ps;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Bursts that enter a controller per half CK.
const PER_HALF_CK: u64 = 4;
/// Half CK without a completion after which a channel is given up: what waits for it is then reported as a deadlock.
const PATIENCE: Time = 1 << 21;
/// No run: its schedule was final when it was submitted.
const NO_RUN: u32 = u32::MAX;

/// All channels.
#[derive(Clone, Debug)]
pub struct Exact {
    channels: Vec<Channel>,
    mapping: Mapping,
    burst_bytes: u64,
    /// Bursts of a block, which differ in their column only: a power of two.
    block: u64,
    tck: u64,
    /// Half CK of the next look at a channel, and the channel; stale where the channel says otherwise.
    due: BinaryHeap<Reverse<(Time, u32)>>,
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
    /// The next place for a burst to enter, in bursts since time 0, while all that wait find room.
    entry: Option<u64>,
    /// Something that waits may be answered by a buffered write, which takes no time and no room.
    hazard: bool,
    /// When the channel must be looked at.
    wake: Time,
    /// From a read's command to the end of its data.
    read_latency: Time,
    bytes: [u64; 2],
}

/// What the controller reports to: runs under way and where the time of the data buses goes.
#[derive(Clone, Debug)]
struct Runs {
    open: Vec<OpenRun>,
    free: Vec<u32>,
    /// Open runs by direction.
    open_count: [u32; 2],
    /// Complete and not yet announced.
    closed: Vec<OpenRun>,
    /// When a run was last completed or begun.
    progress: Time,
    burst: Time,
    account: BusAccount,
}

/// Where the time of the data buses went, in half CK summed over pseudo channels.
#[derive(Clone, Debug)]
struct BusAccount {
    pc_shift: u32,
    /// From a command to its data, by direction.
    to_data: [Time; 2],
    /// Least gap on the bus when the direction changes to this one.
    turn: [Time; 2],
    burst: Time,
    bank_refresh: Time,
    all_refresh: Time,
    /// Time that a refresh that blocks keeps other banks waiting.
    blocked: Time,
    pcs: Vec<Bus>,
    /// By bank: end of its last refresh, whether its row was opened and not used yet.
    refreshed: Vec<Time>,
    opened: Vec<bool>,
    data: Time,
    activate: Time,
    latency: Time,
    refresh: Time,
    turnaround: Time,
    activations: u64,
}

/// The data bus of a pseudo channel.
#[derive(Clone, Copy, Debug, Default)]
struct Bus {
    /// End of the last burst.
    free: Time,
    /// Direction of the last burst.
    last: usize,
    /// Bursts in the controller, and since when there are any.
    bursts: u32,
    since: Time,
    /// End of the last refresh that stopped all its banks.
    refreshed: Time,
}

impl BusAccount {
    fn new(d: &HbmDevice, geometry: &Geometry, refresh: Refresh) -> BusAccount {
        let half = |ck: u32| 2 * Time::from(ck);
        let banks = geometry.bank_numbers() as usize;
        BusAccount {
            pc_shift: geometry.pc_shift(),
            to_data: [half(d.cl_ck), half(d.cwl_ck)],
            turn: [
                half(d.wtrs_ck + d.cl_ck),
                half(d.rtw_ck + d.cwl_ck).saturating_sub(half(d.cl_ck + d.bl_ck)),
            ],
            burst: half(d.bl_ck),
            bank_refresh: half(d.rfcpb_ck),
            all_refresh: half(d.rfc_ck),
            blocked: match refresh {
                Refresh::PbBlocking => half(d.rrefd_ck),
                _ => 0,
            },
            pcs: vec![Bus::default(); geometry.pcs as usize],
            refreshed: vec![0; banks],
            opened: vec![false; banks],
            data: 0,
            activate: 0,
            latency: 0,
            refresh: 0,
            turnaround: 0,
            activations: 0,
        }
    }

    /// A burst for a pseudo channel entered the controller.
    #[inline]
    fn entered(&mut self, pc: u32, now: Time) {
        let bus = &mut self.pcs[pc as usize];
        if bus.bursts == 0 {
            bus.since = now;
        }
        bus.bursts += 1;
    }

    /// The time that the bus idled with work before this burst: first the refresh of its bank, then the turnaround, then its row
    /// or its column.
    #[inline]
    fn burst(&mut self, issued: &Issued, direction: usize) {
        let bank = issued.bank as usize;
        let bus = &mut self.pcs[(issued.bank >> self.pc_shift) as usize];
        let start = issued.at + self.to_data[direction];
        let opened = std::mem::take(&mut self.opened[bank]);
        let mut from = bus.free.max(bus.since);
        if from < start {
            let mut until = |end: Time, sum: &mut Time| {
                let end = end.min(start);
                if end > from {
                    *sum += end - from;
                    from = end;
                }
            };
            if bus.last != direction && bus.free > 0 {
                until(bus.free + self.turn[direction], &mut self.turnaround);
            }
            let refreshed = match opened {
                true => self.refreshed[bank].max(bus.refreshed),
                false => bus.refreshed,
            };
            until(refreshed, &mut self.refresh);
            match opened {
                true => until(FAR, &mut self.activate),
                false => until(FAR, &mut self.latency),
            }
        }
        bus.free = start + self.burst;
        bus.last = direction;
        bus.bursts -= 1;
        self.data += self.burst;
    }

    #[inline]
    fn command(&mut self, issued: &Issued) {
        match issued.command {
            Command::Rd | Command::RdA => self.burst(issued, 0),
            Command::Wr | Command::WrA => self.burst(issued, 1),
            Command::Act => {
                self.opened[issued.bank as usize] = true;
                self.activations += 1;
            }
            Command::RefBank | Command::Rfm => {
                self.refreshed[issued.bank as usize] = issued.at + self.bank_refresh;
                if self.blocked > 0 {
                    let bus = &mut self.pcs[(issued.bank >> self.pc_shift) as usize];
                    bus.refreshed = issued.at + self.blocked;
                }
            }
            Command::RefAll => {
                let bus = &mut self.pcs[(issued.bank >> self.pc_shift) as usize];
                bus.refreshed = issued.at + self.all_refresh;
            }
            Command::Pre | Command::PreAll => {}
        }
    }

    /// The sums as time of the channel, of which each pseudo channel is a share.
    fn totals(&self, tck: u64) -> ChannelTotals {
        let share = 2 * self.pcs.len() as u128;
        let ps = |half: Time| Ps((u128::from(half) * u128::from(tck) / share) as u64);
        ChannelTotals {
            data: ps(self.data),
            activate: ps(self.activate),
            latency: ps(self.latency),
            refresh: ps(self.refresh),
            turnaround: ps(self.turnaround),
            read_bytes: 0,
            write_bytes: 0,
            activations: self.activations,
        }
    }
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
            controller,
            waiting: [VecDeque::new(), VecDeque::new()],
            waiting_bursts: [0; 2],
            submitted: 0,
            next: 0,
            idle_since: 0,
            entry: None,
            hazard: false,
            wake: FAR,
            read_latency: Table::read_latency(d),
            bytes: [0; 2],
        }
    }

    /// Room in a queue, as of the last time that the channel was advanced.
    fn room(&self, kind: usize) -> u64 {
        let config = &self.controller.config;
        let size = [config.read_queue, config.write_queue][kind];
        u64::from(size - self.controller.queues.len[kind])
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

    /// Queues bursts that may enter from `arrival` on; the half CK in which first and last of them will, if that is known.
    fn push(&mut self, kind: usize, mut waiting: Waiting, tag: u64) -> Option<(Time, Time)> {
        let arrival = waiting.arrival;
        let bursts = u64::from(waiting.left);
        self.hazard |= self.may_meet(kind, waiting.burst, waiting.burst + bursts);
        if self.waiting_bursts == [0, 0] {
            self.entry = Some(0);
        }
        self.waiting_bursts[kind] += bursts;
        // As long as there is room for all that waits they enter one after the other.
        let fits = (0..2).all(|kind| self.waiting_bursts[kind] <= self.room(kind));
        let first = self
            .entry
            .filter(|_| fits)
            .map(|entry| entry.max(arrival * PER_HALF_CK));
        self.entry = first.map(|first| first + bursts);
        let known = first
            .filter(|_| kind == 1)
            .map(|first| (first / PER_HALF_CK, (first + bursts - 1) / PER_HALF_CK));
        waiting.run = match known {
            Some(_) => NO_RUN,
            None => self.runs.begin(kind, tag, waiting.left, arrival),
        };
        waiting.order = self.submitted;
        self.submitted += 1;
        self.waiting[kind].push_back(waiting);
        self.next = self.next.min(arrival);
        self.idle_since = FAR;
        known
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

    /// The earliest half CK at which a run may be complete whose completion is not known yet.
    fn bound(&self) -> Time {
        let [reads, writes] = self.runs.open_count;
        let stuck = self.next.saturating_sub(self.runs.progress) > PATIENCE;
        if reads + writes == 0 || self.next == FAR || stuck {
            return FAR;
        }
        if self.hazard {
            return self.next;
        }
        let mut bound = FAR;
        if reads > 0 {
            // Rounded down, for many channels to be looked at together.
            let grain = 1 << (self.read_latency / 8).max(1).ilog2();
            bound = (self.next + self.read_latency) & !(grain - 1u64);
        }
        if writes > 0
            && let Some(head) = self.waiting[1].front()
        {
            // A column command and an activate in one CK make room for a burst each, which the next half CK fills.
            let left = u64::from(head.left);
            let enter = head.arrival.max(self.next) + (left - 1) / PER_HALF_CK;
            let short = left.saturating_sub(self.room(1));
            let room = match short {
                0 => 0,
                short => self.next + (short - 1) / 2 * 2 + 1,
            };
            bound = bound.min(enter.max(room));
        }
        bound
    }
}

impl Exact {
    /// The channels of a chip, all banks closed.
    pub fn new(chip: &Chip) -> Exact {
        let hbm = &chip.hbm;
        let d = &hbm.timing;
        let geometry = Geometry::new(d);
        let burst_bytes = u64::from(d.burst_bytes);
        // A chip that was validated has a mapping of its device.
        let list = mapping::list(hbm);
        let mapping = Mapping::parse(&list, geometry).unwrap_or_else(|e| panic!("{list}: {e}"));
        // The one place that says how far a place may be counted up instead of mapped: no further than the mapping has bursts side
        // by side, a single one if it has none.
        let block = (u64::from(hbm.interleave_bytes) / burst_bytes)
            .max(1)
            .min(1 << mapping.column_bits());
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
            due: BinaryHeap::new(),
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

    /// Notes when a channel must be looked at next.
    fn watch(&mut self, channel: u32, wake: Time) {
        let c = &mut self.channels[channel as usize];
        if c.wake != wake {
            c.wake = wake;
            if wake != FAR {
                self.due.push(Reverse((wake, channel)));
            }
        }
    }

    /// Drops what no channel asks for any more from the front.
    fn clean(&mut self) {
        while let Some(&Reverse((wake, channel))) = self.due.peek()
            && self.channels[channel as usize].wake != wake
        {
            self.due.pop();
        }
    }
}

impl HbmModel for Exact {
    fn submit(&mut self, now: Ps, run: Run) -> Schedule {
        let arrival = self.half(now) + 1;
        let first = run.line * LINE_BYTES / self.burst_bytes;
        let end = ((run.line + u64::from(run.lines)) * LINE_BYTES).div_ceil(self.burst_bytes);
        let kind = index(run.direction);
        let waiting = Waiting {
            run: NO_RUN,
            order: 0,
            arrival,
            burst: first,
            place: self.mapping.place(first),
            left: (end - first) as u32,
        };
        let channel = &mut self.channels[run.channel as usize];
        channel.bytes[kind] += u64::from(run.lines) * LINE_BYTES;
        if channel.wake == FAR {
            // Nobody waited for it: it may lie far behind.
            channel.advance(arrival - 1, self.block, &self.mapping);
        }
        if let Some((first, last)) = channel.push(kind, waiting, run.tag) {
            return Schedule {
                first: self.time(first),
                last: self.time(last),
            };
        }
        let wake = channel.wake.min(channel.bound().max(arrival));
        self.watch(run.channel, wake);
        self.clean();
        Schedule {
            first: self.time(arrival),
            last: Schedule::OPEN,
        }
    }

    fn next_revision(&self) -> Option<Ps> {
        self.due.peek().map(|Reverse((wake, _))| self.time(*wake))
    }

    fn revise(&mut self, now: Ps, revised: &mut Vec<(u64, Schedule)>) {
        let until = self.half(now);
        while let Some(&Reverse((wake, index))) = self.due.peek()
            && wake <= until
        {
            self.due.pop();
            if self.channels[index as usize].wake != wake {
                continue;
            }
            let channel = &mut self.channels[index as usize];
            channel.wake = FAR;
            channel.advance(until, self.block, &self.mapping);
            let mut closed = std::mem::take(&mut channel.runs.closed);
            let bound = channel.bound();
            for run in closed.drain(..) {
                let (first, last) = (self.time(run.first), self.time(run.last));
                revised.push((run.tag, Schedule { first, last }));
            }
            self.channels[index as usize].runs.closed = closed;
            self.watch(index, bound);
        }
        self.clean();
    }

    fn totals(&mut self, end: Ps) -> Vec<ChannelTotals> {
        let until = self.half(end);
        let (block, mapping, tck) = (self.block, &self.mapping, self.tck);
        let totals = self.channels.iter_mut().map(|channel| {
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
