//! Commands that nobody asked for: refresh, refresh management, and closing rows by policy.
//!
//! Models: refresh of all banks of a pseudo channel every tREFI, in both pseudo channels at once; refresh bank by bank every tREFIpb,
//! round robin over the banks of a stack ID and then the next stack ID, the same bank in all pseudo channels; refresh management (RFM) of
//! a bank whose count of activates reaches a threshold, which a refresh of the bank lowers by as much; closing a row after N accesses.
//! All go through one queue, first in first out. Leaves out: postponing and pulling in refreshes, temperature, hidden row copies.
//! Invariant: a bank that waits for a maintenance command that does not block is held: it gets no other command.

use super::constraints::{Command, Time};
use super::controller::{Config, Controller, FAR, Issued, Sink};
use super::device::{CLOSED, Geometry};
use super::order::BankSet;
use super::schedule::even;
use super::steady::Visit;
use crate::chip::{HbmDevice, Refresh};
use std::collections::VecDeque;

/// Work for the row bus.
#[derive(Clone, Copy, Debug)]
struct Work {
    command: Command,
    /// Bank, or the first of the pseudo channel.
    bank: u32,
    /// Everything waits until it is out.
    blocks: bool,
}

/// What is due and what is under way.
#[derive(Clone, Debug)]
pub struct Maintenance {
    queue: VecDeque<Work>,
    /// Work in the queue that blocks.
    pub blocking: u32,
    /// When to look again.
    pub wake: Time,
    mode: Refresh,
    interval: Time,
    next_refresh: Time,
    /// The next bank of the round robin within a stack ID.
    next_sid: u32,
    next_bank: u32,
    /// Banks of a round that are not in the queue yet: one enters per half CK.
    round: VecDeque<u32>,
    /// When the banks of a stack ID may be refreshed again.
    sid_allowed: Vec<Time>,
    bank_refresh: Time,
    /// Activates of each bank since the last refresh management.
    activates: Vec<u32>,
    /// Accesses of each bank since it was opened, with a closing policy.
    accesses: Vec<u32>,
    /// Banks over the policy's limit whose precharge is not in the queue yet.
    over: BankSet,
    over_count: u32,
    next_over: Time,
}

impl Maintenance {
    /// Nothing due.
    pub fn new(d: &HbmDevice, geometry: &Geometry, config: &Config) -> Maintenance {
        let interval = 2 * Time::from(match config.refresh {
            Refresh::Ab => d.refi_ck,
            _ => d.refipb_ck,
        });
        let next_refresh = match config.refresh {
            Refresh::None => FAR,
            _ => interval - 1,
        };
        let banks = geometry.bank_numbers() as usize;
        Maintenance {
            queue: VecDeque::new(),
            blocking: 0,
            wake: next_refresh,
            mode: config.refresh,
            interval,
            next_refresh,
            next_sid: 0,
            next_bank: 0,
            round: VecDeque::new(),
            sid_allowed: vec![0; geometry.sids as usize],
            bank_refresh: 2 * Time::from(d.rfcpb_ck),
            activates: vec![0; banks],
            accesses: vec![0; banks],
            over: BankSet::new(geometry),
            over_count: 0,
            next_over: FAR,
        }
    }

    /// Whether nothing is in the queue.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Visits all of it.
    pub fn visit(&mut self, v: &mut impl Visit) {
        for work in &self.queue {
            v.word(work.command as u64);
            v.word(u64::from(work.bank) << 1 | u64::from(work.blocks));
        }
        self.round.iter().for_each(|&bank| v.word(bank.into()));
        for length in [self.queue.len(), self.round.len()] {
            v.word(length as u64);
        }
        for time in [&mut self.wake, &mut self.next_refresh, &mut self.next_over] {
            v.time(time);
        }
        self.sid_allowed.iter_mut().for_each(|time| v.time(time));
        let counts = self.activates.iter().chain(&self.accesses);
        counts.for_each(|&count| v.word(count.into()));
        for count in [
            self.blocking,
            self.next_sid,
            self.next_bank,
            self.over_count,
        ] {
            v.word(count.into());
        }
        self.over.visit(v);
    }

    /// A bank was closed.
    #[inline]
    pub fn closed(&mut self, bank: u32) {
        self.accesses[bank as usize] = 0;
        if self.over.remove(bank) {
            self.over_count -= 1;
        }
    }

    /// Counts an access under the policy `close:limit`; whether it should close the row itself.
    pub fn count_access(&mut self, bank: u32, limit: u32, now: Time) -> bool {
        if self.accesses[bank as usize] >= limit {
            self.closed(bank);
            return true;
        }
        self.accesses[bank as usize] += 1;
        if self.accesses[bank as usize] >= limit && self.over.set(bank, true) {
            self.over_count += 1;
            self.next_over = now + 1;
            self.wake = self.wake.min(now + 1);
        }
        false
    }

    fn push(&mut self, work: Work) {
        self.queue.push_back(work);
        self.blocking += u32::from(work.blocks);
    }
}

impl Controller {
    /// With nothing to serve before `until`: jumps over whole rounds of refresh, which all pass alike once one has passed in an
    /// idle channel. What is left of the time holds another whole round, so that the channel is at `until` as if none was skipped.
    #[inline(never)]
    pub(super) fn skip_rounds<S: Sink>(&mut self, now: Time, until: Time, sink: &mut S) {
        self.idle_since = self.idle_since.min(now);
        let Geometry { pcs, sids, .. } = *self.geometry();
        let m = &mut self.maintenance;
        let (round, commands) = match m.mode {
            Refresh::None => return,
            Refresh::Ab => (m.interval, pcs),
            _ => {
                let banks = sids * self.device.geometry.banks_per_sid();
                // A stack ID alone starts again only when its last bank is done.
                let last = match sids {
                    1 => m.interval.max(Time::from(pcs) - 1 + m.bank_refresh),
                    _ => m.interval,
                };
                (m.interval * Time::from(banks - 1) + last, banks * pcs)
            }
        };
        let settled = now.saturating_sub(self.idle_since) > 2 * round
            && m.queue.is_empty()
            && m.round.is_empty()
            && m.over_count == 0
            && m.next_refresh < FAR;
        let rounds = until.saturating_sub(m.next_refresh) / round;
        if !settled || until == FAR || rounds < 3 {
            return;
        }
        let skipped = (rounds - 2) * round;
        m.next_refresh += skipped;
        m.wake = m.next_refresh.min(m.next_over);
        for allowed in &mut m.sid_allowed {
            *allowed += skipped;
        }
        self.totals.refreshes += (rounds - 2) * Time::from(commands);
        sink.rounds_skipped(now, round, rounds - 2);
    }

    /// Hands what is due to the queue.
    #[inline(never)]
    pub(super) fn maintain(&mut self, now: Time) {
        let Geometry { pcs, sids, .. } = *self.geometry();
        let geometry = *self.geometry();
        let before = self.maintenance.queue.len();
        let m = &mut self.maintenance;
        match m.mode {
            Refresh::None => {}
            Refresh::Ab => {
                if now >= m.next_refresh {
                    m.next_refresh += m.interval;
                    for pc in 0..pcs {
                        m.push(Work {
                            command: Command::RefAll,
                            bank: geometry.bank(pc, 0, 0, 0),
                            blocks: true,
                        });
                    }
                }
            }
            Refresh::PbBlocking | Refresh::PbBank => {
                if m.round.is_empty() && now >= m.next_refresh {
                    if now < m.sid_allowed[m.next_sid as usize] {
                        m.next_refresh = now + 1;
                    } else {
                        for pc in 0..pcs {
                            let first = geometry.bank(pc, m.next_sid, 0, 0);
                            m.round.push_back(first + m.next_bank);
                        }
                        m.next_bank += 1;
                        if m.next_bank == geometry.banks_per_sid() {
                            m.sid_allowed[m.next_sid as usize] =
                                now + Time::from(pcs) - 1 + m.bank_refresh;
                            m.next_bank = 0;
                            m.next_sid = (m.next_sid + 1) % sids;
                        }
                        m.next_refresh += m.interval;
                    }
                }
                if let Some(bank) = m.round.pop_front() {
                    m.push(Work {
                        command: Command::RefBank,
                        bank,
                        blocks: m.mode == Refresh::PbBlocking,
                    });
                }
            }
        }
        if now >= m.next_over {
            let (device, over) = (&self.device, &m.over);
            let (mut next, mut ready) = (FAR, Vec::new());
            for pc in 0..pcs {
                over.for_each(pc, |bank| match device.ready_at(Command::Pre, bank) {
                    at if at <= now => ready.push(bank),
                    at => next = next.min(at),
                });
            }
            for bank in ready {
                m.over.set(bank, false);
                m.over_count -= 1;
                m.push(Work {
                    command: Command::Pre,
                    bank,
                    blocks: true,
                });
            }
            m.next_over = if m.over_count > 0 { next } else { FAR };
        }
        m.wake = m.next_refresh.min(m.next_over);
        if !m.round.is_empty() {
            m.wake = now + 1;
        }
        if self.maintenance.queue.len() > before {
            for at in before..self.maintenance.queue.len() {
                let work = self.maintenance.queue[at];
                if !work.blocks {
                    self.device.banks[work.bank as usize].own.held += 1;
                    self.update_bank(work.bank, now);
                }
            }
            self.row_wake = self.row_wake.min(now);
        }
    }

    /// Counts an activate of a bank for refresh management.
    pub(super) fn count_activate(&mut self, bank: u32, now: Time) {
        let Some(threshold) = self.config.rfm else {
            return;
        };
        let count = &mut self.maintenance.activates[bank as usize];
        *count += 1;
        if *count >= threshold {
            *count -= threshold;
            let blocks = self.config.refresh != Refresh::PbBank;
            self.device.banks[bank as usize].own.held += u16::from(!blocks);
            self.maintenance.push(Work {
                command: Command::Rfm,
                bank,
                blocks,
            });
            self.row_wake = self.row_wake.min(now + 1);
            self.update_bank(bank, now);
        }
    }

    /// Issues the next command of the front of the queue if it can go; otherwise lowers `wake` to when it might.
    pub(super) fn maintenance_slot<S: Sink>(
        &mut self,
        now: Time,
        rising: bool,
        wake: &mut Time,
        sink: &mut S,
    ) -> bool {
        let work = loop {
            match self.maintenance.queue.front() {
                None => return false,
                // Refresh closed it meanwhile.
                Some(w) if w.command == Command::Pre && self.device.open_row(w.bank) == CLOSED => {
                    self.maintenance.blocking -= 1;
                    self.maintenance.queue.pop_front();
                    self.column_wake = self.column_wake.min(now + 1);
                }
                Some(&work) => break work,
            }
        };
        let Work { command, bank, .. } = work;
        let next = self.device.required(command, bank, CLOSED);
        let closes = matches!(next, Command::Pre | Command::PreAll);
        if closes && self.has_active(next, bank) {
            // Its access wakes the row slot.
            return false;
        }
        let ready = self.device.ready_at(next, bank);
        if ready > now || !(rising || next.may_fall()) {
            let at = ready.max(now + 1);
            *wake = (*wake).min(if next.may_fall() { at } else { even(at) });
            return false;
        }
        if closes {
            self.close(now, next, bank, CLOSED, sink);
        } else {
            self.device.issue(next, bank, CLOSED, now);
            self.count_refresh(next, bank);
            sink.command(Issued {
                at: now,
                command: next,
                bank,
                row: CLOSED,
                column: 0,
            });
        }
        if next == command {
            self.maintenance.queue.pop_front();
            match work.blocks {
                true => self.maintenance.blocking -= 1,
                false => self.device.banks[bank as usize].own.held -= 1,
            }
            self.update_bank(bank, now);
            self.column_wake = self.column_wake.min(now + 1);
        }
        true
    }

    fn count_refresh(&mut self, command: Command, bank: u32) {
        let banks = match command {
            Command::Rfm => {
                self.totals.refresh_managements += 1;
                return;
            }
            Command::RefAll => bank..bank + self.geometry().banks_per_pc(),
            _ => bank..bank + 1,
        };
        self.totals.refreshes += 1;
        if let Some(threshold) = self.config.rfm {
            for bank in banks {
                let count = &mut self.maintenance.activates[bank as usize];
                *count = count.saturating_sub(threshold);
            }
        }
    }
}
