//! What a controller issues: the column slot of a rising edge, the row slot of either edge.
//!
//! Models: first ready, then oldest, over the banks that could go, from the oldest on. Invariants: a slot that finds nothing says from when to look
//! again, never too late (a test steps through every half CK and must see the same); no slot looks at requests one by one, only at
//! the first of each bank.

use super::constraints::{Command, Time};
use super::controller::{Active, Controller, FAR, Issued, RowPolicy, Sink};
use super::device::CLOSED;
use super::queue::{Entry, Key, Kind, NONE};

impl Controller {
    pub(super) fn column_slot<S: Sink>(&mut self, now: Time, sink: &mut S) {
        if now >= self.active_wake && self.active_access(now, sink) {
            self.column_wake = now + 1;
            return;
        }
        let mut wake = self.active_wake;
        if self.maintenance.blocking == 0 {
            wake = wake.min(match self.favoured() {
                Kind::Read => self.hit::<0, S>(now, sink),
                Kind::Write => self.hit::<1, S>(now, sink),
            });
        }
        self.column_wake = wake;
    }

    /// Serves the oldest request whose row was opened for it and can be accessed now; or sees from when one can.
    #[inline(never)]
    fn active_access<S: Sink>(&mut self, now: Time, sink: &mut S) -> bool {
        let (mut best, mut wake) = (None, FAR);
        for (at, a) in self.active.iter().enumerate() {
            let mut ready = a.ready;
            if ready <= now {
                ready = self.device.ready_at(access(a.kind), a.bank);
            }
            if ready > now {
                wake = wake.min(ready);
            } else {
                let age = (a.entry.accepted, a.order);
                if best.is_none_or(|(oldest, _)| age < oldest) {
                    best = Some((age, at));
                }
            }
        }
        let Some((_, at)) = best else {
            self.active_wake = wake;
            return false;
        };
        let Active {
            entry, kind, bank, ..
        } = self.active.swap_remove(at);
        self.device.banks[bank as usize].own.active = None;
        if self.active.is_empty() {
            self.active_wake = FAR;
        }
        let row = self.device.open_row(bank);
        self.access(now, kind, (bank, row), &entry, true, sink);
        if !self.maintenance.is_empty() {
            // A precharge may have waited for it.
            self.row_wake = self.row_wake.min(now);
        }
        true
    }

    /// Serves the oldest hit of reads (0) or writes (1) that can go now; from when another may.
    #[inline(never)]
    fn hit<const K: usize, S: Sink>(&mut self, now: Time, sink: &mut S) -> Time {
        let kind = [Kind::Read, Kind::Write][K];
        let (mut best, mut wake) = (Key::LAST, FAR);
        let mut place = (0, 0);
        for (pc, hits) in self.hits.of(kind).iter().enumerate() {
            if hits.is_empty() {
                continue;
            }
            let ready = self.device.pc_column_ready_at::<K>(pc);
            if ready > now {
                wake = wake.min(ready);
                continue;
            }
            for (at, &key) in hits.keys().iter().enumerate() {
                let ready = self.device.column_ready_at::<K>(key.bank());
                if ready <= now {
                    if key < best {
                        (best, place) = (key, (pc, at));
                    }
                    break;
                }
                wake = wake.min(ready);
            }
        }
        if best == Key::LAST {
            return wake;
        }
        let bank = best.bank();
        let list = *self.list(kind, bank);
        let open = self.device.open_row(bank);
        let (entry, rest) = self.pop(kind, bank, open, list.hit);
        match rest {
            Some(seq) if list.miss == NONE && self.config.row_policy == RowPolicy::Open => {
                // The rest of the group is all that changes.
                self.next_hit(kind, place, Key::new(seq, bank));
                self.totals.row_hits += u64::from(!entry.counted);
                self.device.access::<K>(bank, now);
                self.report(now, kind, access(kind), (bank, open), &entry, sink);
                now + 1
            }
            _ => {
                self.access(now, kind, (bank, open), &entry, false, sink);
                match self.hits.is_empty(kind) {
                    true => FAR,
                    false => now + 1,
                }
            }
        }
    }

    /// Issues the access of an entry that is out of its list.
    #[inline(never)]
    fn access<S: Sink>(
        &mut self,
        now: Time,
        kind: Kind,
        (bank, row): (u32, u32),
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
        self.device.issue(command, bank, row, now);
        if matches!(command, Command::RdA | Command::WrA) {
            self.reopen(bank, CLOSED);
            self.update_bank(bank, now);
        } else if was_active {
            self.update_bank(bank, now);
        } else {
            self.update_list(kind, bank, now);
        }
        self.report(now, kind, command, (bank, row), entry, sink);
    }

    /// Tells the sink of an access.
    #[inline]
    fn report<S: Sink>(
        &self,
        now: Time,
        kind: Kind,
        command: Command,
        (bank, row): (u32, u32),
        entry: &Entry,
        sink: &mut S,
    ) {
        sink.command(Issued {
            at: now,
            command,
            bank,
            row,
            column: entry.column.into(),
        });
        match kind {
            Kind::Read => sink.read_done(entry.tag, entry.accepted, now + self.read_latency),
            Kind::Write => sink.write_done(entry.tag, entry.accepted, now),
        }
    }

    #[inline(never)]
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
        let mut best = Key::LAST;
        let mut closes = false;
        for pc in 0..self.geometry().pcs {
            let acts = &self.acts.of(kind)[pc as usize];
            if !acts.is_empty() {
                let ready = self.device.pc_ready_at(Command::Act, pc);
                if ready > now || !rising {
                    wake = wake.min(even(ready.max(now + 1)));
                } else {
                    for &key in acts.keys() {
                        let ready = self.device.bank_ready_at(Command::Act, key.bank());
                        if ready <= now {
                            if key < best {
                                (best, closes) = (key, false);
                            }
                            break;
                        }
                        wake = wake.min(even(ready));
                    }
                }
            }
            let pres = &self.pres.of(kind)[pc as usize];
            if !pres.is_empty() {
                let ready = self.device.pc_ready_at(Command::Pre, pc);
                if ready > now {
                    wake = wake.min(ready);
                } else {
                    for &key in pres.keys() {
                        let ready = self.device.precharge_ready_at(key.bank());
                        if ready <= now {
                            if key < best {
                                (best, closes) = (key, true);
                            }
                            break;
                        }
                        wake = wake.min(ready);
                    }
                }
            }
        }
        // What the command itself makes possible lowers it again.
        self.row_wake = wake;
        if best == Key::LAST {
            return;
        }
        let bank = best.bank();
        if closes {
            let first = self.list(kind, bank).miss;
            let row = self.queues.group(first).row;
            if !std::mem::replace(&mut self.queues.head_mut(first).counted, true) {
                self.totals.row_conflicts += 1;
            }
            self.close(now, Command::Pre, bank, row, sink);
        } else {
            self.activate(now, kind, bank, sink);
        }
        // Others that could have gone now go as soon as this one lets them.
        for pc in 0..self.geometry().pcs {
            let ready = |command| self.device.pc_ready_at(command, pc).max(now + 1);
            if !self.acts.of(kind)[pc as usize].is_empty() {
                self.row_wake = self.row_wake.min(even(ready(Command::Act)));
            }
            if !self.pres.of(kind)[pc as usize].is_empty() {
                self.row_wake = self.row_wake.min(ready(Command::Pre));
            }
        }
    }

    fn activate<S: Sink>(&mut self, now: Time, kind: Kind, bank: u32, sink: &mut S) {
        let first = self.list(kind, bank).first;
        let row = self.queues.group(first).row;
        let (mut entry, _) = self.pop(kind, bank, CLOSED, first);
        if !entry.counted {
            entry.counted = true;
            self.totals.row_misses += 1;
        }
        self.totals.activates += 1;
        self.device.issue(Command::Act, bank, row, now);
        self.reopen(bank, row);
        let order = self.activations;
        self.activations += 1;
        let ready = self.device.bank_ready_at(access(kind), bank);
        self.active.push(Active {
            entry,
            kind,
            order,
            bank,
            ready,
        });
        self.device.banks[bank as usize].own.active = Some(kind);
        self.active_wake = self.active_wake.min(ready);
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
            self.reopen(bank, CLOSED);
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
