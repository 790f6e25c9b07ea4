//! What a controller issues: the column slot of a rising edge, the row slot of either edge.
//!
//! Models: first ready, then oldest, over the banks that could go, from the oldest on. Invariants: a slot that finds nothing says from when to look
//! again, by pseudo channel, never too late (a test looks at everything in every half CK and must see the same); no slot looks at requests one by one, only at
//! the first of each bank.

use super::constraints::{Command, Time};
use super::controller::{Active, Controller, FAR, Issued, RowPolicy, Sink};
use super::device::CLOSED;
use super::order::Key;
use super::queue::{Kind, Request};

impl Controller {
    #[inline]
    pub(super) fn column_slot<S: Sink>(&mut self, now: Time, sink: &mut S) {
        if self.maintenance.blocking > 0 {
            if now >= self.active_wake {
                self.active_access(now, sink);
            }
            self.column_wake = self.active_wake;
            return;
        }
        match self.favoured() {
            Kind::Read => self.column_of::<0, S>(now, sink),
            Kind::Write => self.column_of::<1, S>(now, sink),
        }
    }

    /// The column slot with nothing in the way, reads (0) or writes (1) in favour.
    #[inline]
    pub(super) fn column_of<const K: usize, S: Sink>(&mut self, now: Time, sink: &mut S) {
        if now < self.active_wake || !self.active_access(now, sink) {
            self.hit::<K, S>(now, sink);
        }
        self.column_wake = self.wake_of_columns();
    }

    /// From when a column command may be possible.
    #[inline]
    pub(super) fn wake_of_columns(&self) -> Time {
        let sides = self.sides.iter();
        sides.fold(self.active_wake, |wake, side| wake.min(side.hit_wake))
    }

    /// Serves the oldest request whose row was opened for it and can be accessed now; or sees from when one can.
    #[inline(never)]
    fn active_access<S: Sink>(&mut self, now: Time, sink: &mut S) -> bool {
        let (mut best, mut wake, mut ready) = (None, FAR, 0);
        for (at, a) in self.active.iter_mut().enumerate() {
            if a.ready <= now {
                a.ready = self.device.access_ready_at(a.kind, a.bank);
            }
            if a.ready > now {
                wake = wake.min(a.ready);
            } else {
                ready += 1;
                let age = (a.request.accepted, a.order);
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
            request,
            kind,
            bank,
            ..
        } = self.active.swap_remove(at);
        self.device.banks[bank as usize].own.active = None;
        self.active_wake = if ready > 1 { now + 1 } else { wake };
        let row = self.device.open_row(bank);
        self.access(now, kind, (bank, row), &request, true, sink);
        if !self.maintenance.is_empty() {
            // A precharge may have waited for it.
            self.row_wake = self.row_wake.min(now);
        }
        true
    }

    /// Whether a request whose row was opened for it can be accessed now; or sees from when one can.
    #[inline]
    pub(super) fn has_ready_active(&mut self, now: Time) -> bool {
        let mut wake = FAR;
        for a in &mut self.active {
            if a.ready <= now {
                a.ready = self.device.access_ready_at(a.kind, a.bank);
                if a.ready <= now {
                    return true;
                }
            }
            wake = wake.min(a.ready);
        }
        self.active_wake = wake;
        false
    }

    /// The oldest hit of reads (0) or writes (1) that can go now, as pseudo channel and place in its order; or sees from when one may.
    #[inline(always)]
    pub(super) fn choose<const K: usize>(&mut self, now: Time) -> Option<(usize, usize)> {
        let (mut best, mut place) = (Key::LAST, (0, 0));
        for (pc, side) in self.sides.iter_mut().enumerate() {
            if side.hit_wake > now {
                continue;
            }
            let hits = side.hits[K].banks();
            match self.device.first_ready::<K>(pc, now, hits) {
                Ok(at) => {
                    let key = hits[at].key;
                    if key < best {
                        (best, place) = (key, (pc, at));
                    }
                }
                Err(ready) => side.hit_wake = ready,
            }
        }
        (best != Key::LAST).then_some(place)
    }

    /// Serves a hit that can go now and is not the last of its entry, if no one wishes for anything else then; whether it did. The
    /// policy leaves rows open.
    #[inline(always)]
    pub(super) fn serve<const K: usize, S: Sink>(
        &mut self,
        now: Time,
        (pc, at): (usize, usize),
        sink: &mut S,
    ) -> bool {
        let kind = [Kind::Read, Kind::Write][K];
        let side = &mut self.sides[pc];
        let hits = &mut side.hits[K];
        let lane = hits.bank_mut(at);
        let (head, limit, key) = (lane.head, lane.limit, lane.key);
        let Some(request) = self.queues.take_first(kind, head, limit) else {
            return false;
        };
        let bank = key.bank();
        lane.key = key.next();
        hits.younger(at);
        self.totals.row_hits += u64::from(!request.counted);
        self.device.access::<K>(bank, now);
        side.hit_wake = self.device.pc_column_ready_at::<K>(pc);
        let row = self.device.open_row(bank);
        self.report(now, kind, access(kind), (bank, row), &request, sink);
        true
    }

    /// Serves the oldest hit of reads (0) or writes (1) that can go now; sees from when another may.
    #[inline]
    fn hit<const K: usize, S: Sink>(&mut self, now: Time, sink: &mut S) {
        let Some((pc, at)) = self.choose::<K>(now) else {
            return;
        };
        if self.config.row_policy == RowPolicy::Open && self.serve::<K, S>(now, (pc, at), sink) {
            return;
        }
        let kind = [Kind::Read, Kind::Write][K];
        let bank = self.sides[pc].hits[K].banks()[at].key.bank();
        let open = self.device.open_row(bank);
        let group = self.list(kind, bank).hit;
        let request = self.pop(kind, bank, open, group);
        self.access(now, kind, (bank, open), &request, false, sink);
        self.sides[pc].hit_wake = self.device.pc_column_ready_at::<K>(pc);
    }

    /// Issues the access of a request that is out of its list.
    #[inline(never)]
    fn access<S: Sink>(
        &mut self,
        now: Time,
        kind: Kind,
        (bank, row): (u32, u32),
        request: &Request,
        was_active: bool,
        sink: &mut S,
    ) {
        if !request.counted {
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
        self.report(now, kind, command, (bank, row), request, sink);
    }

    /// Tells the sink of an access.
    #[inline(always)]
    fn report<S: Sink>(
        &self,
        now: Time,
        kind: Kind,
        command: Command,
        (bank, row): (u32, u32),
        request: &Request,
        sink: &mut S,
    ) {
        sink.command(Issued {
            at: now,
            command,
            bank,
            row,
            column: request.column,
        });
        match kind {
            Kind::Read => sink.read_done(request.tag, request.accepted, now + self.read_latency),
            Kind::Write => sink.write_done(request.tag, request.accepted, now),
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
        for (pc, side) in self.sides.iter_mut().enumerate() {
            if side.row_wake > now {
                continue;
            }
            let rows = side.rows[kind as usize].banks();
            match self.device.first_row(pc as u32, now, rising, rows) {
                Ok(at) => best = best.min(rows[at].key),
                Err(ready) => side.row_wake = ready,
            }
        }
        // What the command itself makes possible lowers it again.
        self.row_wake = FAR;
        if best != Key::LAST {
            let bank = best.bank();
            if best.closes() {
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
            for (pc, side) in self.sides.iter_mut().enumerate() {
                if side.row_wake <= now {
                    let rows = side.rows[kind as usize].banks();
                    let first = self.device.first_row(pc as u32, now + 1, !rising, rows);
                    side.row_wake = first.err().unwrap_or(now + 1);
                }
            }
        }
        let rows = self
            .sides
            .iter()
            .fold(wake, |wake, side| wake.min(side.row_wake));
        self.row_wake = self.row_wake.min(rows);
    }

    fn activate<S: Sink>(&mut self, now: Time, kind: Kind, bank: u32, sink: &mut S) {
        let first = self.list(kind, bank).first;
        let row = self.queues.group(first).row;
        let mut request = self.pop(kind, bank, CLOSED, first);
        if !request.counted {
            request.counted = true;
            self.totals.row_misses += 1;
        }
        self.totals.activates += 1;
        self.device.issue(Command::Act, bank, row, now);
        self.reopen(bank, row);
        let order = self.activations;
        self.activations += 1;
        let ready = self.device.own_ready_at(access(kind), bank);
        self.active.push(Active {
            ready,
            order,
            bank,
            kind,
            request,
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
