//! Whether a sequence of commands is one that the device allows.
//!
//! Models: every pair of commands against every row of the timing table, what must be open or closed, and when each bank must have been
//! refreshed ([`Checker::with_refresh`]). It knows the table of [`super::constraints`] and nothing of how commands were chosen: no
//! controller, no earliest times. Of each command it keeps the starts that a rule can still reach. Invariant: a log without a violation is
//! legal at every scope.
//!
//! Refresh: a bank has its n-th by the end of n + 1 intervals, and never goes two without (JESD238 lets 8 be postponed; nobody does here).
//! An interval is tREFI, bank by bank rounded up to whole CK of each. Rounds in an idle channel that are jumped over come as a number
//! ([`Checker::skip`]): the round before them was checked, the one after must be the same, and joins the one before as the first of them would.

use super::constraints::{Command, Constraint, Scope, Table, Time};
use super::controller::Issued;
use super::device::Geometry;
use crate::chip::{HbmDevice, Refresh};
use std::collections::VecDeque;

/// A command that came too early, or at the wrong time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("illegal {} at {} CK, bank {}: {reason}", .issued.command.name(), .issued.at as f64 / 2.0, .issued.bank)]
pub struct Violation {
    pub issued: Issued,
    pub reason: String,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Time,
    pc: u32,
    sid: u32,
    group: u32,
    bank: u32,
    all_banks: bool,
}

/// Looks at commands in the order in which they were issued.
#[derive(Clone, Debug)]
pub struct Checker {
    geometry: Geometry,
    /// Rules by the command after.
    rules: [Vec<Constraint>; Command::COUNT],
    /// Farthest that a rule reaches back to each command.
    reach: [Time; Command::COUNT],
    past: [VecDeque<Seen>; Command::COUNT],
    open: Vec<Option<u32>>,
    last: Time,
    seen: u64,
    /// Half CK in which each bank is refreshed once; none if nobody has to.
    interval: Option<Time>,
    /// When each bank must have been refreshed again, and the earliest of those.
    due: Vec<Time>,
    next_due: Time,
    /// Row commands since the last column command, as far back as a round reaches.
    idle: VecDeque<Issued>,
    /// What must come next: the round before those that were jumped over, once more; half a CK off if it is no whole number of CK long.
    like: VecDeque<Issued>,
    off: Time,
    skipped: u64,
}

impl Checker {
    /// A checker of a channel with all banks closed.
    pub fn new(d: &HbmDevice) -> Checker {
        let geometry = Geometry::new(d);
        let mut rules: [Vec<Constraint>; Command::COUNT] = std::array::from_fn(|_| Vec::new());
        let mut reach = [0; Command::COUNT];
        for rule in Table::new(d).constraints {
            let before = &mut reach[rule.before as usize];
            *before = (*before).max(Time::from(rule.half_ck));
            rules[rule.after as usize].push(rule);
        }
        Checker {
            open: vec![None; geometry.bank_numbers() as usize],
            geometry,
            rules,
            reach,
            past: std::array::from_fn(|_| VecDeque::new()),
            last: 0,
            seen: 0,
            interval: None,
            due: Vec::new(),
            next_due: Time::MAX,
            idle: VecDeque::new(),
            like: VecDeque::new(),
            off: 0,
            skipped: 0,
        }
    }

    /// The same, which also wants every bank refreshed in time.
    pub fn with_refresh(mut self, d: &HbmDevice, mode: Refresh) -> Checker {
        let interval = 2 * Time::from(match mode {
            Refresh::None => return self,
            Refresh::Ab => d.refi_ck,
            Refresh::PbBlocking | Refresh::PbBank => d.refresh_round_ck(),
        });
        self.interval = Some(interval);
        self.due = vec![Time::MAX; self.open.len()];
        for pc in 0..self.geometry.pcs {
            for bank in self.geometry.banks_of(pc) {
                self.due[bank as usize] = 2 * interval;
            }
        }
        self.next_due = 2 * interval;
        self
    }

    /// Commands seen so far.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Refreshes that were jumped over so far.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// At `now`, the round of refresh that just passed in an idle channel, of so many half CK, is jumped over so many times.
    pub fn skip(&mut self, now: Time, round: Time, times: u64) {
        let by = round * times;
        self.off = round % 2;
        self.like.clear();
        let last = self.idle.iter().filter(|old| old.at + round > now);
        self.like.extend(last.map(|old| Issued {
            at: old.at + by + round,
            ..*old
        }));
        let refreshes = |c: &Issued| matches!(c.command, Command::RefAll | Command::RefBank);
        self.skipped += times * self.like.iter().filter(|c| refreshes(c)).count() as u64;
        for old in self.past.iter_mut().flatten() {
            old.at += by;
        }
        self.idle.iter_mut().for_each(|old| old.at += by);
        self.last += by;
        // As if each bank had been refreshed once in each.
        let due = self.interval.map_or(0, |interval| interval.min(round)) * times;
        for at in self.due.iter_mut().chain([&mut self.next_due]) {
            *at = at.saturating_add(due);
        }
    }

    /// What refresh asks for.
    fn check_refresh(&mut self, issued: &Issued) -> Result<(), String> {
        let Some(interval) = self.interval else {
            return Ok(());
        };
        let at = issued.at;
        if at > self.next_due {
            let late = self.due.iter().position(|due| *due == self.next_due);
            return Err(format!(
                "bank {} is without its refresh, which was due by {} CK",
                late.unwrap_or(0),
                (self.next_due - interval) as f64 / 2.0
            ));
        }
        if issued.command.is_column() {
            self.idle.clear();
            self.like.clear();
            return Ok(());
        }
        if let Some(like) = self.like.pop_front()
            && (at.abs_diff(like.at) > self.off || Issued { at, ..like } != *issued)
        {
            return Err(format!(
                "after rounds of refresh jumped over, not like the round before them: {} at {} CK, bank {}",
                like.command.name(),
                like.at as f64 / 2.0,
                like.bank
            ));
        }
        self.idle.push_back(*issued);
        while self
            .idle
            .front()
            .is_some_and(|old| old.at + 2 * interval < at)
        {
            self.idle.pop_front();
        }
        let banks = match issued.command {
            Command::RefAll => self
                .geometry
                .banks_of(issued.bank >> self.geometry.pc_shift()),
            Command::RefBank => issued.bank..issued.bank + 1,
            _ => return Ok(()),
        };
        for bank in banks {
            let due = &mut self.due[bank as usize];
            *due = (*due + interval).min(at + 2 * interval);
        }
        self.next_due = self.due.iter().copied().min().unwrap_or(Time::MAX);
        Ok(())
    }

    /// Checks the next command and remembers it.
    pub fn see(&mut self, issued: &Issued) -> Result<(), Violation> {
        let violation = |reason: String| Violation {
            issued: *issued,
            reason,
        };
        let Issued {
            at, command, bank, ..
        } = *issued;
        let g = self.geometry;
        let within = bank % (1 << g.pc_shift());
        if bank >= g.bank_numbers() || within >= g.banks_per_pc() {
            return Err(violation("the channel has no such bank".to_owned()));
        }
        if at < self.last {
            return Err(violation(format!(
                "after a command at {} CK",
                self.last as f64 / 2.0
            )));
        }
        if at % 2 == 1 && !matches!(command, Command::Pre | Command::PreAll) {
            return Err(violation("starts on a falling edge".to_owned()));
        }
        let [pc, sid, group, part] = g.parts(bank);
        let new = Seen {
            at,
            pc,
            sid,
            group,
            bank: part,
            all_banks: matches!(command, Command::PreAll | Command::RefAll),
        };
        for rule in &self.rules[command as usize] {
            let mut left = rule.window;
            for old in self.past[rule.before as usize].iter().rev() {
                if !spans(rule.scope, old, &new) {
                    continue;
                }
                left -= 1;
                if left == 0 {
                    if at < old.at + Time::from(rule.half_ck) {
                        return Err(violation(format!(
                            "{} half CK after {}, not {} ({})",
                            at - old.at,
                            rule.before.name(),
                            rule.half_ck,
                            rule.name
                        )));
                    }
                    // Earlier ones are farther away.
                    break;
                }
            }
        }
        self.check_state(issued, &new).map_err(violation)?;
        self.check_refresh(issued).map_err(violation)?;
        self.last = at;
        self.seen += 1;
        let past = &mut self.past[command as usize];
        past.push_back(new);
        while past
            .front()
            .is_some_and(|old| old.at + self.reach[command as usize] < at)
        {
            past.pop_front();
        }
        Ok(())
    }

    /// What is open, before and after.
    fn check_state(&mut self, issued: &Issued, new: &Seen) -> Result<(), String> {
        let pc = self.geometry.banks_of(new.pc);
        let pc = pc.start as usize..pc.end as usize;
        let bank = issued.bank as usize;
        let open = self.open[bank];
        match issued.command {
            Command::Act => {
                if let Some(row) = open {
                    return Err(format!("row {row} is open"));
                }
                if issued.row >= self.geometry.rows {
                    return Err(format!("row {} of {}", issued.row, self.geometry.rows));
                }
                self.open[bank] = Some(issued.row);
            }
            Command::Rd | Command::Wr | Command::RdA | Command::WrA => {
                if open != Some(issued.row) {
                    return Err(format!("row {} is wanted, {open:?} is open", issued.row));
                }
                if issued.column >= self.geometry.columns {
                    return Err(format!(
                        "column {} of {}",
                        issued.column, self.geometry.columns
                    ));
                }
                if matches!(issued.command, Command::RdA | Command::WrA) {
                    self.open[bank] = None;
                }
            }
            Command::Pre => self.open[bank] = None,
            Command::PreAll => self.open[pc].fill(None),
            Command::RefBank | Command::Rfm => {
                if let Some(row) = open {
                    return Err(format!("row {row} is open"));
                }
            }
            Command::RefAll => {
                if let Some(at) = self.open[pc].iter().position(Option::is_some) {
                    return Err(format!("bank {at} of its pseudo channel is open"));
                }
            }
        }
        Ok(())
    }
}

impl Geometry {
    /// Pseudo channel, stack ID, bank group and bank of a bank number.
    pub fn parts(&self, bank: u32) -> [u32; 4] {
        let within = bank % (1 << self.pc_shift());
        [
            bank >> self.pc_shift(),
            within / self.banks_per_sid(),
            within / self.banks_per_group % self.groups,
            within % self.banks_per_group,
        ]
    }
}

/// Whether two commands meet in a scope.
fn spans(scope: Scope, old: &Seen, new: &Seen) -> bool {
    let pc = old.pc == new.pc;
    // An all-bank command is in every part of its pseudo channel.
    let wide = old.all_banks || new.all_banks;
    let sid = pc && (wide || old.sid == new.sid);
    let group = sid && (wide || old.group == new.group);
    match scope {
        Scope::Channel => true,
        Scope::PseudoChannel => pc,
        Scope::Sid => sid,
        Scope::OtherSid => pc && !wide && old.sid != new.sid,
        Scope::BankGroup => group,
        Scope::Bank => group && (wide || old.bank == new.bank),
    }
}
