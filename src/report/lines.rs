//! Operations by the source line that pushed them: how often, how long, and what they waited for.

use crate::trace::Reason;
use crate::trace::export::op_word;
use crate::trace::file::Recording;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// All operations of one line of a program.
#[derive(Clone, Debug, PartialEq)]
pub struct LineReport {
    /// `file:line`, or `word N` if the line is not known.
    pub place: String,
    /// The instruction.
    pub text: String,
    /// How often it was pushed, over all units.
    pub count: u64,
    /// Picoseconds from push to retirement by reason, over all pushes, in the order of [`Reason::ALL`], zeros left out.
    pub times_ps: Vec<(Reason, u64)>,
}

impl LineReport {
    /// Picoseconds spent on `reason`.
    pub fn time_ps(&self, reason: Reason) -> u64 {
        let found = self.times_ps.iter().find(|(r, _)| *r == reason);
        found.map_or(0, |(_, time)| *time)
    }

    /// Picoseconds from the head of the queue to retirement.
    pub fn active_ps(&self) -> u64 {
        let active = self.times_ps.iter().filter(|(r, _)| *r != Reason::Queue);
        active.map(|(_, time)| time).sum()
    }

    /// The JSON form; times in seconds.
    pub fn json(&self) -> Value {
        let times: Map<String, Value> = self
            .times_ps
            .iter()
            .map(|(reason, time)| (reason.name().to_owned(), json!(*time as f64 * 1e-12)))
            .collect();
        json!({ "line": self.place, "text": self.text, "count": self.count, "times_s": times })
    }
}

/// The lines that pushed operations, the one with the most time at the head of queues first.
pub fn by_line(recording: &Recording) -> Vec<LineReport> {
    let mut lines: BTreeMap<(String, String), (u64, Vec<u64>)> = BTreeMap::new();
    // Words are few and operations many, so names are made once per word.
    let mut words: BTreeMap<(u16, u32), (u64, Vec<u64>, usize)> = BTreeMap::new();
    for (index, op) in recording.trace.ops.iter().enumerate() {
        let unit = recording.trace.engines[op.engine as usize].unit;
        // The processor kind: programs are per kind, not per unit.
        let key = (unit >> 8, op.pc);
        let empty = || (0, vec![0; Reason::ALL.len()], index);
        let entry = words.entry(key).or_insert_with(empty);
        entry.0 += 1;
        let mut from = op.pushed;
        for (reason, to) in &op.milestones {
            entry.1[*reason as usize] += to.saturating_sub(from).0;
            from = *to;
        }
    }
    for ((_, pc), (count, times, index)) in words {
        let word = op_word(recording, &recording.trace.ops[index]);
        let place = word.and_then(|w| recording.listing.place(w));
        let text = word.map_or_else(String::new, |w| w.text.clone());
        let key = (place.unwrap_or_else(|| format!("word {pc}")), text);
        let empty = || (0, vec![0; Reason::ALL.len()]);
        let line = lines.entry(key).or_insert_with(empty);
        line.0 += count;
        line.1.iter_mut().zip(times).for_each(|(sum, t)| *sum += t);
    }
    let mut out: Vec<LineReport> = lines
        .into_iter()
        .map(|((place, text), (count, times))| LineReport {
            place,
            text,
            count,
            times_ps: Reason::ALL
                .into_iter()
                .zip(times)
                .filter(|(_, time)| *time > 0)
                .collect(),
        })
        .collect();
    out.sort_by_key(|line| std::cmp::Reverse(line.active_ps()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Ps;
    use crate::trace::file::{Listing, Word};
    use crate::trace::{EngineId, EngineKind, Op, Trace};

    #[test]
    fn pushes_of_a_line_add_up_over_units() {
        let engine = |unit| EngineId {
            kind: EngineKind::Tdma,
            unit,
            index: 0,
        };
        let op = |engine, pc, at: u64| Op {
            engine,
            pc,
            pushed: Ps(at),
            milestones: vec![
                (Reason::Queue, Ps(at + 10)),
                (Reason::Semaphore, Ps(at + 15)),
                (Reason::Busy, Ps(at + 40)),
            ],
        };
        let word = |line| Word {
            file: 0,
            line,
            text: format!("dma r{line}"),
        };
        let recording = Recording {
            trace: Trace {
                engines: vec![engine(0), engine(3), engine(0x100)],
                ops: vec![op(0, 0, 0), op(0, 1, 5), op(1, 0, 7), op(2, 0, 9)],
                ..Trace::default()
            },
            listing: Listing {
                files: vec!["k.s".into()],
                tile: vec![word(4), word(0)],
                ..Listing::default()
            },
        };
        let lines = by_line(&recording);
        let names: Vec<_> = lines.iter().map(|l| (l.place.as_str(), l.count)).collect();
        assert_eq!(names, [("k.s:4", 2), ("word 0", 1), ("word 1", 1)]);
        assert_eq!(lines[0].time_ps(Reason::Queue), 20);
        assert_eq!(lines[0].active_ps(), 60);
        assert_eq!(lines[0].json()["times_s"]["busy"], 50e-12);
        assert_eq!(lines[1].text, "");
        assert_eq!(lines[2].text, "dma r0");
    }
}
