//! A first-order channel: data bus, banks with open rows, activation rate, refresh and turnaround, each in closed form.
//!
//! Models, per channel of two pseudo channels that share an address: the data bus as a server; per bank the open row, tRC
//! between activations, tRP + tRCD before data; the four-activate window as a rate; per-bank refresh as fixed windows;
//! writes that are posted and drained in batches, two turnarounds a batch. Requests are scheduled when they are submitted,
//! so the cost is per request and not per burst.
//! Leaves out: the command buses, queue sizes and reordering limits. The bus is work-conserving: while one request waits
//! for its row the bus serves others, which is what FR-FCFS with deep queues approaches.
//! Invariant: schedules are final when given, `next_revision` is none.

use super::{ChannelTotals, Direction, HbmModel, LINE_BYTES, Run, Schedule};
use crate::chip::{Chip, HbmDevice, Refresh};
use crate::sim::Ps;

/// All channels.
#[derive(Clone, Debug)]
pub struct FirstOrder {
    channels: Vec<Channel>,
    timing: Timing,
}

/// The device's timing in picoseconds, and its geometry.
#[derive(Clone, Debug)]
struct Timing {
    tck: u64,
    line: u64,
    /// Lines that take as long as one: those that the pseudo channels move at once.
    least: u64,
    cl: u64,
    rcd_read: u64,
    rcd_write: u64,
    rp: u64,
    rc: u64,
    activate_interval: u64,
    turnaround: u64,
    refresh_interval: u64,
    refresh_busy: u64,
    /// Between the refreshes of two banks that follow each other; 0 where all refresh at once.
    refresh_step: u64,
    /// log2 of bank groups, and of banks in a group.
    group_bits: u32,
    bank_bits: u32,
    sids: u64,
    blocks_per_row: u64,
    /// Lines that share a row of a bank before the bank group changes: a block of the interleave.
    lines_per_block: u64,
    /// Lines that one drain of the write queue moves: what lies between its watermarks.
    write_batch_lines: u64,
}

#[derive(Clone, Debug, Default)]
struct Channel {
    bus_free: Ps,
    activate_free: Ps,
    undrained_lines: u64,
    banks: Vec<Bank>,
    /// End of the request that ends last, and what it waited for.
    pending: (Ps, Wait),
    totals: ChannelTotals,
}

/// What a request waits for before its data.
#[derive(Clone, Copy, Debug, Default)]
enum Wait {
    /// Nothing but the column access of an open row.
    #[default]
    Column,
    /// Its row.
    Row,
    /// The refresh of its bank.
    Refresh,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bank {
    row: Option<u64>,
    next_activate: Ps,
    column_ready: Ps,
}

impl Timing {
    fn new(chip: &Chip) -> Timing {
        let d: &HbmDevice = &chip.hbm.timing;
        let tck = u64::from(d.tck_ps);
        let ps = |ck: u32| u64::from(ck) * tck;
        let banks = u64::from(d.banks());
        let (refresh_interval, refresh_busy) = match chip.hbm.refresh {
            Refresh::None => (0, 0),
            Refresh::Ab => (ps(d.refi_ck), ps(d.rfc_ck)),
            // A bank's turn comes once per round over all banks.
            Refresh::PbBank => (ps(d.refipb_ck) * banks, ps(d.rfcpb_ck)),
            // The channel stops while the bank due is closed and its refresh issued.
            Refresh::PbBlocking => (ps(d.refipb_ck), ps(d.rp_ck + d.rrefd_ck)),
        };
        let lines_per_block = (u64::from(chip.hbm.interleave_bytes) / LINE_BYTES).max(1);
        let high = chip.hbm.write_high_permille;
        let drained = u64::from(high.saturating_sub(chip.hbm.write_low_permille));
        Timing {
            tck,
            // Every pseudo channel moves a burst in BL.
            line: (ps(d.bl_ck) * LINE_BYTES / u64::from(d.pseudo_channels * d.burst_bytes)).max(1),
            least: u64::from(d.pseudo_channels * d.burst_bytes).div_ceil(LINE_BYTES),
            cl: ps(d.cl_ck),
            rcd_read: ps(d.rcdrd_ck),
            rcd_write: ps(d.rcdwr_ck),
            rp: ps(d.rp_ck),
            rc: ps(d.rc_ck),
            activate_interval: ps(d.faw_ck) / 4,
            turnaround: ps(d.rtw_ck) + ps(d.cwl_ck + d.bl_ck + d.wtrs_ck),
            refresh_interval,
            refresh_busy,
            refresh_step: match chip.hbm.refresh {
                Refresh::PbBank => refresh_interval / banks,
                _ => 0,
            },
            group_bits: d.bank_groups.ilog2(),
            bank_bits: d.banks_per_group.ilog2(),
            sids: u64::from(d.sids),
            blocks_per_row: (u64::from(d.row_bytes()) * u64::from(d.pseudo_channels)
                / (lines_per_block * LINE_BYTES))
                .max(1),
            lines_per_block,
            write_batch_lines: (u64::from(chip.hbm.write_queue) * drained / 1000).max(1),
        }
    }

    /// Bank and row of a block: bank group, column, bank, stack, row from low to high, with the row folded into bank and
    /// bank group so that row strides spread over banks.
    fn place(&self, block: u64) -> (usize, u64) {
        let (groups, banks) = (1 << self.group_bits, 1 << self.bank_bits);
        let rest = (block >> self.group_bits) / self.blocks_per_row;
        let (rest, bank) = (rest >> self.bank_bits, rest);
        let (row, sid) = (rest / self.sids, rest % self.sids);
        let group = (block + (row >> self.bank_bits)) & (groups - 1);
        let bank = (bank + row) & (banks - 1);
        (
            (((sid << self.group_bits) + group) << self.bank_bits | bank) as usize,
            row,
        )
    }

    /// End of the refresh that a bank is under at `t`, if it is.
    fn refresh_end(&self, bank: usize, t: Ps) -> Option<Ps> {
        if self.refresh_interval == 0 {
            return None;
        }
        // Below the interval.
        let offset = bank as u64 * self.refresh_step;
        let phase = (t.0 + self.refresh_interval - offset) % self.refresh_interval;
        (phase < self.refresh_busy).then(|| Ps(t.0 + self.refresh_busy - phase))
    }
}

impl FirstOrder {
    /// The channels of a chip, all banks closed.
    pub fn new(chip: &Chip) -> FirstOrder {
        let banks = chip.hbm.timing.banks() as usize;
        let channel = Channel {
            banks: vec![Bank::default(); banks],
            ..Channel::default()
        };
        FirstOrder {
            channels: vec![channel; chip.hbm_channels() as usize],
            timing: Timing::new(chip),
        }
    }
}

impl Channel {
    /// Schedules the lines of one block; returns first and last beat.
    fn block(
        &mut self,
        t: &Timing,
        now: Ps,
        block: u64,
        lines: u64,
        direction: Direction,
    ) -> Schedule {
        self.attribute_gap(now);
        let (index, row) = t.place(block);
        let bank = &mut self.banks[index];
        let mut start = now.max(bank.column_ready);
        let mut cause = Wait::Column;
        if let Some(end) = t.refresh_end(index, start) {
            start = end;
            bank.row = None;
            cause = Wait::Refresh;
        }
        if bank.row != Some(row) {
            let precharge = if bank.row.is_some() { t.rp } else { 0 };
            let activate = (start + Ps(precharge))
                .max(bank.next_activate)
                .max(self.activate_free);
            self.activate_free = self.activate_free.max(now) + Ps(t.activate_interval);
            bank.next_activate = activate + Ps(t.rc);
            bank.row = Some(row);
            let rcd = match direction {
                Direction::Read => t.rcd_read,
                Direction::Write => t.rcd_write,
            };
            bank.column_ready = activate + Ps(rcd);
            start = bank.column_ready;
            if !matches!(cause, Wait::Refresh) {
                cause = Wait::Row;
            }
            self.totals.activations += 1;
        }
        // Lines alternate between the pseudo channels, so a single line takes the time of a pair.
        let service = Ps(lines.max(t.least) * t.line);
        self.bus_free = now.max(self.bus_free) + service;
        self.totals.data += service;
        let latency = match direction {
            Direction::Read => t.cl,
            Direction::Write => 0,
        };
        let last = self.bus_free.max(start + Ps(latency) + service);
        if last > self.pending.0 {
            self.pending = (last, cause);
        }
        Schedule {
            first: last - service,
            last,
        }
    }

    /// Accounts for the time since the bus ran out of work: while a request is under way it waited for its bank.
    fn attribute_gap(&mut self, now: Ps) {
        let (pending, cause) = self.pending;
        let waited = pending.min(now).saturating_sub(self.bus_free);
        match cause {
            Wait::Refresh => self.totals.refresh += waited,
            Wait::Row => self.totals.activate += waited,
            Wait::Column => self.totals.latency += waited,
        }
    }

    fn drain(&mut self, t: &Timing, lines: u64) {
        self.undrained_lines += lines;
        while self.undrained_lines >= t.write_batch_lines {
            self.undrained_lines -= t.write_batch_lines;
            self.bus_free += Ps(t.turnaround);
            self.totals.turnaround += Ps(t.turnaround);
        }
    }
}

impl HbmModel for FirstOrder {
    fn submit(&mut self, now: Ps, run: Run) -> Schedule {
        let t = &self.timing;
        let channel = &mut self.channels[run.channel as usize];
        let mut schedule: Option<Schedule> = None;
        let (mut line, mut left) = (run.line, u64::from(run.lines));
        while left > 0 {
            let lines = left.min(t.lines_per_block - line % t.lines_per_block);
            let part = channel.block(t, now, line / t.lines_per_block, lines, run.direction);
            if run.direction == Direction::Write {
                channel.drain(t, lines);
            }
            schedule = Some(match schedule {
                None => part,
                Some(s) => Schedule {
                    first: s.first.min(part.first),
                    last: s.last.max(part.last),
                },
            });
            line += lines;
            left -= lines;
        }
        let bytes = u64::from(run.lines) * LINE_BYTES;
        match run.direction {
            Direction::Read => channel.totals.read_bytes += bytes,
            Direction::Write => channel.totals.write_bytes += bytes,
        }
        let now = Schedule {
            first: now,
            last: now + Ps(t.tck),
        };
        schedule.unwrap_or(now)
    }

    fn next_revision(&self) -> Option<Ps> {
        None
    }

    fn revise(&mut self, _now: Ps, _revised: &mut Vec<(u64, Schedule)>) {}

    fn totals(&mut self, _end: Ps) -> Vec<ChannelTotals> {
        let ended = |c: &Channel| {
            let mut c = c.clone();
            c.attribute_gap(c.pending.0);
            c.totals
        };
        self.channels.iter().map(ended).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chip(refresh: Refresh) -> Chip {
        let mut chip = Chip::preset("maia-200").unwrap();
        chip.hbm.refresh = refresh;
        chip
    }

    fn read(channel: u32, line: u64, lines: u32) -> Run {
        Run {
            channel,
            line,
            lines,
            direction: Direction::Read,
            tag: 0,
        }
    }

    #[test]
    fn idle_latencies_are_the_closed_forms() {
        let chip = chip(Refresh::None);
        let d = &chip.hbm.timing;
        let ck = u64::from(d.tck_ps);
        let mut hbm = FirstOrder::new(&chip);
        let closed = hbm.submit(Ps::ZERO, read(0, 0, 2));
        assert_eq!(
            closed.last.0,
            u64::from(d.rcdrd_ck + d.cl_ck + d.bl_ck) * ck
        );
        let later = Ps(1_000_000);
        let hit = hbm.submit(later, read(0, 2, 2));
        assert_eq!((hit.last - later).0, u64::from(d.cl_ck + d.bl_ck) * ck);
        let row_stride = 8 * 4 * 8 * 4 * 3 * 4 * 4;
        let conflict = hbm.submit(later + later, read(0, row_stride * 4, 2));
        let latency = u64::from(d.rp_ck + d.rcdrd_ck + d.cl_ck + d.bl_ck) * ck;
        assert!((conflict.last - later - later).0 <= latency);
    }

    #[test]
    fn a_sequential_stream_keeps_the_bus_full() {
        let chip = chip(Refresh::None);
        let mut hbm = FirstOrder::new(&chip);
        let blocks = 10_000;
        let last = (0..blocks)
            .map(|b| hbm.submit(Ps::ZERO, read(3, b * 8, 8)).last)
            .max()
            .unwrap();
        let ideal = blocks * 8 * u64::from(chip.hbm.timing.tck_ps);
        assert!(last.0 < ideal + 100_000, "{last} against {ideal} ps");
        assert!(last.0 >= ideal);
    }

    #[test]
    fn a_bank_under_refresh_waits() {
        let chip = chip(Refresh::PbBank);
        let mut hbm = FirstOrder::new(&chip);
        let d = &chip.hbm.timing;
        let first = hbm.submit(Ps(1), read(0, 0, 2));
        let refresh = u64::from(d.rfcpb_ck) * u64::from(d.tck_ps);
        assert!(first.first.0 >= refresh, "bank 0 refreshes from time 0 on");
    }

    #[test]
    fn write_batches_pay_turnarounds() {
        let chip = chip(Refresh::None);
        let mut hbm = FirstOrder::new(&chip);
        for b in 0..1000 {
            let run = Run {
                direction: Direction::Write,
                ..read(0, b * 8, 8)
            };
            hbm.submit(Ps::ZERO, run);
        }
        let totals = hbm.totals(Ps::ZERO)[0];
        assert_eq!(totals.write_bytes, 256_000);
        assert!(totals.turnaround > Ps::ZERO && totals.turnaround < totals.data);
    }
}
