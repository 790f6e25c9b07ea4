//! A recording as text, as JSON Lines, and for Perfetto.
//!
//! Models: three forms of the same facts, each streamed to a writer. Leaves out: derived figures ([`crate::report`]).
//! Invariant: the forms are complete: every engine, span and operation of the recording appears in each.

pub use super::perfetto::perfetto;

use super::file::{Listing, Recording, Word};
use super::{EngineId, EngineKind, Op, Reason};
use crate::sim::{Clock, Ps};
use serde_json::json;
use std::io::{Result, Write};

/// The name of a unit number: `tile 3`, `cluster 0`, `chip`.
pub fn unit_name(unit: u16) -> String {
    match unit {
        0..0x100 => format!("tile {unit}"),
        0x100..0x200 => format!("cluster {}", unit - 0x100),
        _ => "chip".to_owned(),
    }
}

/// The name of an engine within its unit: `ttu`, `tdma2`, `hbm17`.
pub fn engine_name(engine: &EngineId) -> String {
    use EngineKind::{Cdma, Hbm, Noc, Tdma};
    match engine.kind {
        Tdma | Cdma | Hbm | Noc => format!("{}{}", engine.kind.name(), engine.index),
        kind if engine.index > 0 => format!("{}{}", kind.name(), engine.index),
        kind => kind.name().to_owned(),
    }
}

/// The word that pushed an operation.
pub fn op_word<'a>(recording: &'a Recording, op: &Op) -> Option<&'a Word> {
    let engine = recording.trace.engines.get(op.engine as usize)?;
    recording.listing.word(engine.unit, op.pc)
}

/// What an operation is called: `file:line instruction`, or its word number if the program is not known.
pub fn op_name(listing: &Listing, word: Option<&Word>, pc: u32) -> String {
    match word {
        None => format!("word {pc}"),
        Some(word) => match listing.place(word) {
            Some(place) => format!("{place} {}", word.text),
            None => format!("word {pc} {}", word.text),
        },
    }
}

/// One JSON object a line: `type` is `meta`, `engine`, `span` or `op`; times are picoseconds; engines are numbered in the
/// order of their lines.
pub fn jsonl(recording: &Recording, out: &mut dyn Write) -> Result<()> {
    let trace = &recording.trace;
    let meta = json!({ "type": "meta", "end_ps": trace.end.0, "meta": trace.meta });
    writeln!(out, "{meta}")?;
    for (engine, account) in trace.engines.iter().zip(&trace.accounts) {
        let sums: serde_json::Map<_, _> = Reason::ALL
            .iter()
            .zip(&account.sums)
            .filter(|(_, sum)| **sum > Ps::ZERO)
            .map(|(reason, sum)| (reason.name().to_owned(), sum.0.into()))
            .collect();
        let line = json!({
            "type": "engine", "kind": engine.kind.name(), "unit": unit_name(engine.unit),
            "index": engine.index, "sums_ps": sums,
        });
        writeln!(out, "{line}")?;
    }
    for s in &trace.spans {
        // Written by hand: a million of these are common, and nothing in them needs escaping.
        writeln!(
            out,
            r#"{{"type":"span","engine":{},"reason":"{}","from_ps":{},"to_ps":{}}}"#,
            s.engine,
            s.reason.name(),
            s.from.0,
            s.to.0
        )?;
    }
    for op in &trace.ops {
        let word = op_word(recording, op);
        let milestones: Vec<_> = op
            .milestones
            .iter()
            .map(|(reason, at)| json!([reason.name(), at.0]))
            .collect();
        let line = json!({
            "type": "op", "engine": op.engine, "pc": op.pc, "pushed_ps": op.pushed.0,
            "retired_ps": op.retired().0, "milestones": milestones,
            "line": word.and_then(|w| recording.listing.place(w)), "text": word.map(|w| &w.text),
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// One line a span or operation, in order of time: cycle, engine, what, cycles.
pub fn text(recording: &Recording, clock: Clock, out: &mut dyn Write) -> Result<()> {
    let trace = &recording.trace;
    let names: Vec<String> = trace
        .engines
        .iter()
        .map(|e| format!("{} {}", unit_name(e.unit), engine_name(e)))
        .collect();
    // Operations sort after spans of the same time; indices keep the order of the recording.
    let spans = trace.spans.iter().enumerate();
    let ops = trace.ops.iter().enumerate();
    let mut order: Vec<(Ps, u8, usize)> = spans
        .map(|(i, s)| (s.from, 0, i))
        .chain(ops.map(|(i, op)| (op.pushed, 1, i)))
        .collect();
    order.sort_unstable();
    writeln!(
        out,
        "{:>12}  {:<18}  {:>10}  what",
        "cycle", "engine", "cycles"
    )?;
    let cycles = |from: Ps, to: Ps| clock.cycle_at(to) - clock.cycle_at(from);
    for (at, kind, index) in order {
        let cycle = clock.cycle_at(at);
        if kind == 0 {
            let s = &trace.spans[index];
            let name = &names[s.engine as usize];
            let length = cycles(s.from, s.to);
            writeln!(
                out,
                "{cycle:>12}  {name:<18}  {length:>10}  {}",
                s.reason.name()
            )?;
            continue;
        }
        let op = &trace.ops[index];
        let name = &names[op.engine as usize];
        let length = cycles(op.pushed, op.retired());
        let what = op_name(&recording.listing, op_word(recording, op), op.pc);
        write!(out, "{cycle:>12}  {name:<18}  {length:>10}  op {what}:")?;
        let mut before = op.pushed;
        for (reason, to) in &op.milestones {
            write!(out, " {} {}", reason.name(), cycles(before, *to))?;
            before = *to;
        }
        writeln!(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::sample;
    use super::*;

    #[test]
    fn jsonl_lines_parse_and_are_complete() {
        let recording = sample(3, 8);
        let mut out = Vec::new();
        jsonl(&recording, &mut out).unwrap();
        let mut counts = std::collections::BTreeMap::new();
        let mut time = 0;
        for line in String::from_utf8(out).unwrap().lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            if value["type"] == "span" {
                time += value["to_ps"].as_u64().unwrap() - value["from_ps"].as_u64().unwrap();
            }
            *counts.entry(value["type"].to_string()).or_insert(0) += 1;
        }
        let want = [("engine", 3), ("meta", 1), ("op", 6), ("span", 24)];
        let want = want.map(|(k, n)| (format!("\"{k}\""), n));
        assert_eq!(counts.into_iter().collect::<Vec<_>>(), want);
        let spans = &recording.trace.spans;
        assert_eq!(time, spans.iter().map(|s| (s.to - s.from).0).sum::<u64>());
    }

    #[test]
    fn text_is_in_order_of_time() {
        let mut out = Vec::new();
        text(&sample(3, 8), Clock::new(1_000_000_000), &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        let cycle = |l: &str| l.split_whitespace().next().unwrap().parse::<u64>().unwrap();
        let cycles: Vec<u64> = out.lines().skip(1).map(cycle).collect();
        assert_eq!(cycles.len(), 24 + 6);
        assert!(cycles.is_sorted());
        assert!(out.contains("tile 0 tdma1") && out.contains("op a.s:"));
    }
}
