//! Whether a sequence of commands is one that the device allows.
//!
//! Models: every pair of commands against every row of the timing table, and what must be open or closed. It knows the table of
//! [`super::constraints`] and nothing of how commands were chosen: no controller, no earliest times. Of each command it keeps the
//! starts that a rule can still reach. Invariant: a log without a violation is legal at every scope.

use super::constraints::{Command, Constraint, Scope, Table, Time};
use super::controller::Issued;
use super::device::Geometry;
use crate::chip::HbmDevice;
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
        }
    }

    /// Commands seen so far.
    pub fn seen(&self) -> u64 {
        self.seen
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
        let new = Seen {
            at,
            pc: bank >> g.pc_shift(),
            sid: within / g.banks_per_sid(),
            group: within / g.banks_per_group % g.groups,
            bank: within % g.banks_per_group,
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
