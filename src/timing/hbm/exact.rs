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
//! Channels do not see each other: all with work are advanced together, in one go per *epoch*, on as many threads as the host has for it
//! (rayon's pool, which `--threads` sizes). An epoch is a whole number of CK and no longer than [`way_back`], the time that data needs
//! after its end to be anywhere; half a CK if that is less than a CK. Epochs follow each other while a run is under way; idle time has none.
//! Invariants: results depend neither on the length of an epoch nor on when or how often a channel is advanced nor on threads; ends
//! are announced in the first revision at or after them, by (end, channel, order in the channel); nothing is allocated in the steady
//! state. A channel with work that serves nothing for long is not waited for any more ([`Channel::is_alive`]).

use super::channel::{Arriving, Channel, Ended, Layout};
use super::constraints::Time;
use super::controller::{Config, RowPolicy, Scheduler};
use super::device::Geometry;
use super::mapping::Mapping;
use super::{ChannelTotals, Direction, HbmModel, LINE_BYTES, Run, Schedule, way_back};
use crate::chip::{Chip, mapping};
use crate::sim::Ps;
use rayon::prelude::*;

/// Half CK of channels with runs, summed, from which on threads share an epoch: below (some 50 us of host time), waking them for it
/// costs more than they do.
const SHARED: Time = 1 << 11;

/// All channels.
#[derive(Clone, Debug)]
pub struct Exact {
    channels: Vec<Channel>,
    layout: Layout,
    burst_bytes: u64,
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
    ended: Vec<Ended>,
    ends: Vec<u32>,
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
            layout: Layout { mapping, block },
            burst_bytes,
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
        &self.layout.mapping
    }

    /// Makes epochs shorter: `ck`, if that is less than they are. Changes no result.
    pub fn with_epoch(mut self, ck: u32) -> Exact {
        self.epoch = self.epoch.min(2 * Time::from(ck)).max(1);
        self
    }

    /// Does in all channels with work what happens up to half CK `until`.
    fn advance(&mut self, until: Time) {
        let layout = &self.layout;
        let work = |channel: &mut Channel| {
            if channel.has_work() {
                channel.advance(until, layout);
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

/// Sorts runs by their end; those of one end stay as they are. Ends of an epoch are many on few half CK: these are counted.
fn in_order(runs: &mut Vec<Ended>, ends: &mut Vec<u32>) {
    let last = |run: &Ended| run.last;
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
        let bytes = u64::from(run.lines) * LINE_BYTES;
        self.channels[run.channel as usize].submit(
            Arriving {
                tag: run.tag,
                burst: first,
                bursts: (end - first) as u32,
                write: run.direction == Direction::Write,
                arrival,
            },
            bytes,
        );
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
            channel.ended(until, &mut ended);
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
        let (layout, tck) = (&self.layout, self.tck);
        let channels = self.channels.iter_mut();
        channels
            .map(|channel| {
                channel.advance(until, layout);
                channel.totals(tck)
            })
            .collect()
    }
}
