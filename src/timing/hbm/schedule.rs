//! What a controller issues: the column slot of a rising edge, the row slot of either edge.
//!
//! Models: first ready, then oldest, over the sets of banks that could go. Invariants: a slot that finds nothing says from when to look
//! again, never too late (a test steps through every half CK and must see the same); no slot looks at requests one by one, only at
//! the first of each bank.

use super::constraints::{Command, Time};
use super::controller::{Active, Controller, FAR, Issued, RowPolicy, Sink};
use super::device::CLOSED;
use super::queue::{Entry, Kind, NONE};

/// Pseudo channels that a chip description may have.
const MAX_PCS: usize = 4;
/// The oldest candidate of a slot: order of acceptance, bank and a flag in one word, so that a minimum finds it.
#[derive(Clone, Copy)]
struct Choice(u64);

impl Choice {
    const NONE: Choice = Choice(u64::MAX);
    /// Bank numbers stay below 2^13 and orders of acceptance below 2^50.
    const BANK_BITS: u32 = 13;

    #[inline]
    fn older(self, seq: u64, bank: u32, flag: bool) -> Choice {
        let word = (seq << Choice::BANK_BITS | u64::from(bank)) << 1 | u64::from(flag);
        Choice(self.0.min(word))
    }

    #[inline]
    fn get(self) -> Option<(u32, bool)> {
        let bank = (self.0 >> 1) as u32 & ((1 << Choice::BANK_BITS) - 1);
        (self.0 != u64::MAX).then_some((bank, self.0 & 1 == 1))
    }
}

impl Controller {
    pub(super) fn column_slot<S: Sink>(&mut self, now: Time, sink: &mut S) {
        let pcs = self.geometry().pcs;
        let mut wake = FAR;
        let mut best = (FAR, FAR, NONE);
        let mut candidates = 0;
        for pc in 0..pcs {
            if self.active_set.is_empty(pc) {
                continue;
            }
            let ready = |command| self.device.pc_ready_at(command, pc);
            let first = ready(Command::Rd).min(ready(Command::Wr));
            if first > now {
                wake = wake.min(first);
                continue;
            }
            let (device, active) = (&self.device, &self.active);
            self.active_set.for_each(pc, |bank| {
                if let Some(a) = &active[bank as usize] {
                    let ready = device.ready_at(access(a.kind), bank);
                    if ready <= now {
                        candidates += 1;
                        best = best.min((a.entry.accepted, a.order, bank));
                    } else {
                        wake = wake.min(ready);
                    }
                }
            });
        }
        if best.2 != NONE {
            let bank = best.2;
            if let Some(Active { entry, kind, .. }) = self.active[bank as usize].take() {
                self.active_set.set(bank, false);
                self.access(now, kind, bank, &entry, true, sink);
                if !self.maintenance.is_empty() {
                    // A precharge may have waited for it.
                    self.row_wake = self.row_wake.min(now);
                }
                let hits = &self.hits[self.favoured() as usize];
                let alone = candidates == 1 && (0..pcs).all(|pc| hits.is_empty(pc));
                self.column_wake = if alone { wake } else { now + 1 };
            }
            return;
        }
        if self.maintenance.blocking == 0 {
            let kind = self.favoured();
            let command = access(kind);
            // Of a stream, the oldest is the next as a rule: then nothing else need be looked at.
            if let Some(bank) = self.oldest_hit(kind, now) {
                self.access_hit(now, kind, bank, sink);
                self.column_wake = now + 1;
                return;
            }
            let mut best = Choice::NONE;
            for pc in 0..pcs {
                let hits = &self.hits[kind as usize];
                if hits.is_empty(pc) {
                    continue;
                }
                let ready = self.device.pc_ready_at(command, pc);
                if ready > now {
                    wake = wake.min(ready);
                    continue;
                }
                let (device, queues) = (&self.device, &self.queues);
                hits.for_each(pc, |bank| {
                    let ready = device.bank_ready_at(command, bank);
                    if ready <= now {
                        candidates += 1;
                        best = best.older(queues.list(kind, bank).hit_age.seq, bank, false);
                    } else {
                        wake = wake.min(ready);
                    }
                });
            }
            if let Some((bank, _)) = best.get() {
                self.access_hit(now, kind, bank, sink);
                let more = candidates > 1 || self.queues.list(kind, bank).first_hit != NONE;
                self.column_wake = if more { now + 1 } else { wake };
                return;
            }
        }
        self.column_wake = wake;
    }

    /// The bank of the oldest request of a kind if that is a hit that can go now.
    #[inline]
    fn oldest_hit(&self, kind: Kind, now: Time) -> Option<u32> {
        let oldest = self.queues.oldest(kind);
        if oldest == NONE {
            return None;
        }
        let bank = self.queues.entry(oldest).bank;
        let hit = self.queues.list(kind, bank).first_hit == oldest
            && self.hits[kind as usize].contains(bank);
        (hit && self.device.ready_at(access(kind), bank) <= now).then_some(bank)
    }

    /// Issues the oldest hit of a bank.
    #[inline]
    fn access_hit<S: Sink>(&mut self, now: Time, kind: Kind, bank: u32, sink: &mut S) {
        let first = self.queues.list(kind, bank).first_hit;
        let open = self.device.open_row(bank);
        let entry = self.queues.remove(kind, bank, open, first);
        if kind == Kind::Write {
            self.buffered.remove(&entry.line);
        }
        self.access(now, kind, bank, &entry, false, sink);
    }

    /// Issues the access of an entry that is out of its list.
    fn access<S: Sink>(
        &mut self,
        now: Time,
        kind: Kind,
        bank: u32,
        entry: &Entry,
        was_active: bool,
        sink: &mut S,
    ) {
        if !entry.counted {
            self.totals.row_hits += 1;
        }
        let mut command = access(kind);
        if let RowPolicy::Close(limit) = self.config.row_policy
            && self.maintenance.count_access(bank, limit, now)
        {
            command = match kind {
                Kind::Read => Command::RdA,
                Kind::Write => Command::WrA,
            };
        }
        self.device.issue(command, bank, entry.row, now);
        if matches!(command, Command::RdA | Command::WrA) {
            self.queues.reopen(bank, CLOSED);
            self.update_bank(bank, now);
        } else if was_active {
            self.update_bank(bank, now);
        } else {
            self.update_list(kind, bank, now);
        }
        sink.command(Issued {
            at: now,
            command,
            bank,
            row: entry.row,
            column: entry.column,
        });
        match kind {
            Kind::Read => sink.read_done(entry.tag, entry.accepted, now + self.read_latency),
            Kind::Write => sink.write_done(entry.tag, entry.accepted, now),
        }
    }

    pub(super) fn row_slot<S: Sink>(&mut self, now: Time, rising: bool, sink: &mut S) {
        let mut wake = FAR;
        if self.maintenance_slot(now, rising, &mut wake, sink) {
            self.row_wake = now + 1;
            return;
        }
        if self.maintenance.blocking > 0 {
            self.row_wake = wake;
            return;
        }
        let kind = self.favoured();
        let k = kind as usize;
        // With whether to precharge.
        let mut best = Choice::NONE;
        // Banks that could go now, by pseudo channel.
        let mut ready_acts = [0u32; MAX_PCS];
        let mut ready_pres = [0u32; MAX_PCS];
        for pc in 0..self.geometry().pcs {
            let (device, queues) = (&self.device, &self.queues);
            if !self.acts[k].is_empty(pc) {
                let ready = device.pc_ready_at(Command::Act, pc);
                if ready > now || !rising {
                    wake = wake.min(even(ready.max(now + 1)));
                } else {
                    self.acts[k].for_each(pc, |bank| {
                        let ready = device.bank_ready_at(Command::Act, bank);
                        if ready <= now {
                            best = best.older(queues.list(kind, bank).head_age.seq, bank, false);
                            ready_acts[pc as usize] += 1;
                        } else {
                            wake = wake.min(even(ready));
                        }
                    });
                }
            }
            if !self.pres[k].is_empty(pc) {
                let ready = device.pc_ready_at(Command::Pre, pc);
                if ready > now {
                    wake = wake.min(ready);
                } else {
                    self.pres[k].for_each(pc, |bank| {
                        let ready = device.precharge_ready_at(bank);
                        if ready <= now {
                            best = best.older(queues.list(kind, bank).miss_age.seq, bank, true);
                            ready_pres[pc as usize] += 1;
                        } else {
                            wake = wake.min(ready);
                        }
                    });
                }
            }
        }
        // What the command itself makes possible lowers it again.
        self.row_wake = wake;
        match best.get() {
            None => return,
            Some((bank, false)) => {
                ready_acts[(bank >> self.geometry().pc_shift()) as usize] -= 1;
                self.activate(now, kind, bank, sink);
            }
            Some((bank, true)) => {
                ready_pres[(bank >> self.geometry().pc_shift()) as usize] -= 1;
                let first = self.queues.list(kind, bank).first_miss;
                let entry = self.queues.entry_mut(first);
                let row = entry.row;
                if !std::mem::replace(&mut entry.counted, true) {
                    self.totals.row_conflicts += 1;
                }
                self.close(now, Command::Pre, bank, row, sink);
            }
        }
        // Others that could have gone now go as soon as this one lets them.
        for pc in 0..self.geometry().pcs {
            let ready = |command| self.device.pc_ready_at(command, pc).max(now + 1);
            if ready_acts[pc as usize] > 0 {
                self.row_wake = self.row_wake.min(even(ready(Command::Act)));
            }
            if ready_pres[pc as usize] > 0 {
                self.row_wake = self.row_wake.min(ready(Command::Pre));
            }
        }
    }

    fn activate<S: Sink>(&mut self, now: Time, kind: Kind, bank: u32, sink: &mut S) {
        let head = self.queues.list(kind, bank).head;
        let mut entry = self.queues.remove(kind, bank, CLOSED, head);
        if kind == Kind::Write {
            self.buffered.remove(&entry.line);
        }
        if !entry.counted {
            entry.counted = true;
            self.totals.row_misses += 1;
        }
        self.totals.activates += 1;
        let row = entry.row;
        self.device.issue(Command::Act, bank, row, now);
        self.queues.reopen(bank, row);
        let order = self.activations;
        self.activations += 1;
        self.active[bank as usize] = Some(Active { entry, kind, order });
        self.active_set.set(bank, true);
        let ready = self.device.bank_ready_at(access(kind), bank);
        self.column_wake = self.column_wake.min(ready);
        self.update_bank(bank, now);
        self.count_activate(bank, now);
        sink.command(Issued {
            at: now,
            command: Command::Act,
            bank,
            row,
            column: 0,
        });
    }

    /// Closes a bank, or all banks of a pseudo channel.
    pub(super) fn close<S: Sink>(
        &mut self,
        now: Time,
        command: Command,
        bank: u32,
        row: u32,
        sink: &mut S,
    ) {
        self.device.issue(command, bank, row, now);
        let banks = match command {
            Command::PreAll => self.geometry().banks_of(bank >> self.geometry().pc_shift()),
            _ => bank..bank + 1,
        };
        for bank in banks {
            self.queues.reopen(bank, CLOSED);
            self.maintenance.closed(bank);
            self.update_bank(bank, now);
        }
        sink.command(Issued {
            at: now,
            command,
            bank,
            row,
            column: 0,
        });
    }
}

/// The command that serves a kind.
#[inline]
pub(super) fn access(kind: Kind) -> Command {
    match kind {
        Kind::Read => Command::Rd,
        Kind::Write => Command::Wr,
    }
}

/// The rising edge at or after a time.
#[inline]
pub(super) fn even(time: Time) -> Time {
    time + (time & 1)
}
