//! Where the time of a channel's data buses went.
//!
//! Models: per pseudo channel the bus as a line of bursts; what lies between two of them while work waits is put down to the refresh of
//! the bank, the turnaround, the row or the column, in that order. Leaves out: time after the last command of a bus, which the next
//! one explains. Invariant: the sums never exceed the time that passed.

use super::ChannelTotals;
use super::constraints::{Command, Time};
use super::controller::{FAR, Issued};
use super::device::Geometry;
use crate::chip::{HbmDevice, Refresh};
use crate::sim::Ps;

/// Where the time of the data buses went, in half CK summed over pseudo channels.
#[derive(Clone, Debug)]
pub(super) struct BusAccount {
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
    pub(super) fn new(d: &HbmDevice, geometry: &Geometry, refresh: Refresh) -> BusAccount {
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
    pub(super) fn entered(&mut self, pc: u32, now: Time, bursts: u32) {
        let bus = &mut self.pcs[pc as usize];
        if bus.bursts == 0 {
            bus.since = now;
        }
        bus.bursts += bursts;
    }

    /// The time that the bus idled with work before this burst: first the refresh of its bank, then the turnaround, then its row
    /// or its column.
    #[inline(always)]
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

    #[inline(always)]
    pub(super) fn command(&mut self, issued: &Issued) {
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
    pub(super) fn totals(&self, tck: u64) -> ChannelTotals {
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
