//! The interface between the chip and its HBM: runs in, completion schedules out.
//!
//! Models: [`Run`]s of lines on one channel, answered with a [`Schedule`] that is final, or open until the model announces its end;
//! the spread of addresses over channels. Leaves out: latency outside the DRAM (`hbm.path` in the chip description, added by the
//! caller). Invariants: times never decrease from call to call; a revision never moves a schedule whose first beat has passed;
//! a run whose schedule is open is announced less than [`way_back`] after its end, so before its data is at the global crossbar; if
//! that is nothing, at its end. Ends that a call announces come in an order that is the model's own: by time first.
//! The caller books the stack's port when it learns when a run ends: at submission, or in the order of ends. A later revision moves the
//! end of the run, not its place at the port.
//! Who may call it: the chip's global component only. Implementations: [`first_order::FirstOrder`] in closed form,
//! [`exact::Exact`] command by command (`hbm.model` in the chip description).
//!
//! Under the exact one lies a channel exact to half a CK, which `tilewright mem` runs on its own. Reading order:
//! [`constraints`] (the timing rules, as data), [`device`] (what is legal when), [`controller`] with its `queue`, `order`, `schedule`, `maintenance` and
//! [`advance`] (who goes next, and when), `steady` (long runs that repeat themselves), [`legality`] (a checker that knows the rules only), [`mapping`], [`patterns`] and [`trace_file`]
//! (where requests come from), [`run`] (one channel on its own), [`reference`] (the simulator that it agrees with, row by row).
//!
#![doc = include_str!("bandwidth.md")]

mod account;
pub mod advance;
#[cfg(test)]
mod advance_tests;
mod channel;
#[cfg(test)]
mod constraint_tests;
pub mod constraints;
pub mod controller;
pub mod device;
pub mod exact;
pub mod first_order;
pub mod histogram;
pub mod legality;
mod maintenance;
pub mod mapping;
mod order;
pub mod patterns;
mod queue;
pub mod reference;
pub mod run;
#[cfg(test)]
mod run_tests;
mod schedule;
mod steady;
#[cfg(test)]
mod steady_tests;
pub mod trace_file;

use crate::chip::Chip;
use crate::sim::{Clock, Ps};

/// Bytes of a line: one burst of one pseudo channel.
pub const LINE_BYTES: u64 = 32;

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Out of the DRAM.
    Read,
    /// Into the DRAM.
    Write,
}

/// Consecutive lines of one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Channel of the chip, 0 to stacks x channels - 1.
    pub channel: u32,
    /// First 32 B line within the channel.
    pub line: u64,
    /// Number of lines.
    pub lines: u32,
    /// Read or write.
    pub direction: Direction,
    /// The caller's name for it, returned with revisions.
    pub tag: u64,
}

/// When a run's data moves. Reads: on the data bus; writes: when the controller has taken them (they are posted).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// First beat.
    pub first: Ps,
    /// End of the last beat.
    pub last: Ps,
}

impl Schedule {
    /// The end of a run that is not known yet: the model revises it once, less than [`way_back`] after its end. Until then `first` is
    /// the earliest that it may be.
    pub const OPEN: Ps = Ps::MAX;

    /// Whether the end is not known yet.
    pub fn is_open(&self) -> bool {
        self.last == Schedule::OPEN
    }
}

/// What data needs from its end at the DRAM to the global crossbar, and the acknowledgement of a write likewise: `phy_back` and
/// `controller_back` of `hbm.path`. What is left of the way back lies behind the crossbar: half of the crossbar and the one of a tile's
/// cluster at least, or the parts in front of it are cut short by what is missing.
pub fn way_back(chip: &Chip) -> Ps {
    let ns = |ns: u32| Ps(u64::from(ns) * 1000);
    let (path, noc) = (&chip.hbm.path, &chip.noc);
    let clock = Clock::new(chip.clock_hz);
    let behind = Ps(clock.span(u64::from(noc.global_cycles)).0 / 2)
        + clock.span(u64::from(noc.cluster_cycles));
    ns(path.phy_back_ns + path.controller_back_ns).min(ns(path.return_ns()).saturating_sub(behind))
}

/// A model of all channels of the chip.
pub trait HbmModel: Send {
    /// Accepts a run at `now`.
    fn submit(&mut self, now: Ps, run: Run) -> Schedule;

    /// The earliest time at which the model may revise a schedule it gave; none if it never will.
    fn next_revision(&self) -> Option<Ps>;

    /// Advances to `now` and appends the schedules that changed, by tag. Those that were open may have ended before `now`.
    fn revise(&mut self, now: Ps, revised: &mut Vec<(u64, Schedule)>);

    /// Totals per channel for the report of a run that ended at `end`.
    fn totals(&mut self, end: Ps) -> Vec<ChannelTotals>;
}

/// Where a channel's time went, and what it moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelTotals {
    /// Data bus moving data.
    pub data: Ps,
    /// Data bus idle with work waiting for a row.
    pub activate: Ps,
    /// Data bus idle with only column accesses of open rows under way.
    pub latency: Ps,
    /// Data bus idle with work waiting for a bank under refresh.
    pub refresh: Ps,
    /// Data bus turning around.
    pub turnaround: Ps,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Row activations.
    pub activations: u64,
}

/// How HBM addresses spread over channels: blocks of `interleave` bytes go round the channels, each round starting at a
/// channel picked by a hash of the round's number, so that no power-of-two stride stays on few channels.
#[derive(Clone, Copy, Debug)]
pub struct Interleave {
    channels: u64,
    /// A power of two.
    bytes: u64,
}

impl Interleave {
    /// The chip's interleave.
    pub fn new(chip: &Chip) -> Interleave {
        Interleave {
            channels: u64::from(chip.hbm_channels()),
            bytes: u64::from(chip.hbm.interleave_bytes),
        }
    }

    /// Bytes of a block.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The parts of `from .. end` in one block each, in order: channel, byte offset within it, bytes.
    pub fn parts(&self, from: u64, end: u64) -> impl Iterator<Item = (u32, u64, u64)> + use<> {
        let Interleave { channels, bytes } = *self;
        let block = from / bytes;
        let (mut round, mut place) = (block / channels, block % channels);
        let mut first = scatter(round) % channels;
        let mut at = from;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let within = at & (bytes - 1);
            let len = (bytes - within).min(end - at);
            let channel = first + place;
            let channel = if channel < channels {
                channel
            } else {
                channel - channels
            };
            let part = (channel as u32, round * bytes + within, len);
            at += len;
            place += 1;
            if place == channels {
                (place, round) = (0, round + 1);
                first = scatter(round) % channels;
            }
            Some(part)
        })
    }

    /// Channel and byte offset within it.
    pub fn locate(&self, offset: u64) -> (u32, u64) {
        let block = offset / self.bytes;
        let (round, place) = (block / self.channels, block % self.channels);
        let channel = (place + scatter(round) % self.channels) % self.channels;
        (channel as u32, round * self.bytes + offset % self.bytes)
    }
}

/// A fixed mix of all bits of `x` (the finaliser of splitmix64).
fn scatter(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_block_has_its_own_place() {
        let chip = Chip::preset("maia-200").unwrap();
        let interleave = Interleave::new(&chip);
        let places: HashSet<(u32, u64)> = (0..9600)
            .map(|block| interleave.locate(block * interleave.bytes()))
            .collect();
        assert_eq!(places.len(), 9600);
    }

    #[test]
    fn parts_are_where_their_bytes_are() {
        let interleave = Interleave::new(&Chip::preset("maia-200").unwrap());
        for (from, end) in [
            (0, 1),
            (5, 256),
            (255, 257),
            (24_000, 60_123),
            (96 * 256 * 7 - 3, 96 * 256 * 9),
        ] {
            let mut at = from;
            for (channel, offset, bytes) in interleave.parts(from, end) {
                assert_eq!(interleave.locate(at), (channel, offset));
                assert_eq!(
                    interleave.locate(at + bytes - 1),
                    (channel, offset + bytes - 1)
                );
                at += bytes;
            }
            assert_eq!(at, end);
        }
    }

    #[test]
    fn power_of_two_strides_use_most_channels() {
        let interleave = Interleave::new(&Chip::preset("maia-200").unwrap());
        for stride in [8192, 65536, 1 << 20] {
            let used: HashSet<u32> = (0..1024).map(|i| interleave.locate(i * stride).0).collect();
            assert!(
                used.len() >= 90,
                "stride {stride} uses {} channels",
                used.len()
            );
        }
    }
}
