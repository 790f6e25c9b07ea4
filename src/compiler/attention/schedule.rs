//! A modulo scheduler for vector loops: rows of equal work, software-pipelined for an in-order machine.
//!
//! Models: a loop whose iteration `row` does a fixed list of steps, each at a fixed cycle after the row's start; a new row
//! starts every `interval` cycles. The loop is cut in passes of `unroll` rows; a step that falls `k` passes after its row's
//! own belongs to stage k. The text has one pass per stage to fill, the hardware loop, and one pass per stage to drain.
//! Leaves out: slots and latencies, which the caller's cycles respect; where a chip's latencies are longer than the caller
//! assumed the machine's interlocks stall and results stay the same. Invariant: program order is cycle order, so a step
//! reads what an earlier cycle, or an earlier step of the list in the same cycle, wrote.

use crate::compiler::emit::Text;

/// A scalar register that walks through memory, `step` bytes per row.
#[derive(Clone, Copy, Debug)]
pub struct Pointer {
    /// Scalar register, as written.
    pub register: &'static str,
    /// Bytes from row to row.
    pub step: u64,
}

/// One instruction of every row.
pub struct Step {
    /// Cycle after the row's start.
    pub cycle: usize,
    /// The pointer that it uses, by index in [`Rows::pointers`].
    pub pointer: Option<usize>,
    /// The instruction, given the row within the pass and the byte offset from the pointer; empty where a row has none.
    pub text: Box<dyn Fn(usize, i64) -> String>,
}

/// A step without memory.
pub fn compute(cycle: usize, text: impl Fn(usize) -> String + 'static) -> Step {
    Step {
        cycle,
        pointer: None,
        text: Box::new(move |row, _| text(row)),
    }
}

/// A load or store through a pointer.
pub fn access(cycle: usize, pointer: usize, text: impl Fn(usize, i64) -> String + 'static) -> Step {
    Step {
        cycle,
        pointer: Some(pointer),
        text: Box::new(text),
    }
}

/// What the first and the last pass of a loop do besides: lines, each behind the steps of a cycle.
#[derive(Default)]
pub struct Beside {
    pub fill: Vec<(usize, String)>,
    pub drain: Vec<(usize, String)>,
}

/// A loop over rows.
pub struct Rows {
    /// Cycles from row to row.
    pub interval: usize,
    /// Rows of a pass; register rotation in the steps divides it.
    pub unroll: usize,
    /// Pointers, advanced once per pass.
    pub pointers: Vec<Pointer>,
    /// Steps of a row.
    pub steps: Vec<Step>,
}

impl Rows {
    /// Cycles of a pass.
    fn period(&self) -> usize {
        self.interval * self.unroll
    }

    /// Number of stages: passes that a row's steps spread over.
    fn stages(&self) -> usize {
        let last_row = self.interval * (self.unroll - 1);
        let last = self.steps.iter().map(|s| s.cycle).max().unwrap_or(0);
        (last_row + last) / self.period() + 1
    }

    /// Emits the loop for `count` passes, a scalar register; it and `spare` are overwritten. Pointers end behind the last row. With
    /// count 0 nothing runs. The text ends with the label of what follows.
    pub fn emit(&self, text: &mut Text, count: &str, spare: &str) {
        let drain = self.stages() - 1;
        let done = text.fresh("done");
        // A count of at most 1 runs the whole pipe once; count 0 skips it.
        text.inst_c(
            &format!("sli {spare}, 1"),
            "the pipelined loop, if there is a pass at all",
        );
        text.inst(&format!("smin {spare}, {spare}, {count}"));
        text.inst(&format!("loop {spare}, {done}"));
        if drain == 0 {
            let end = text.fresh("end");
            text.inst(&format!("loop {count}, {end}"));
            self.pass(text, |_, _| true, &[], true);
            text.label(&end);
        } else {
            // Fewer passes than stages would need a shorter pipe: with two stages, the most that a unit has, one pass
            // is enough.
            assert!(drain <= 1, "a row spans more than two passes");
            text.comment("fill");
            self.pass(text, |stage, _| stage == 0, &[], true);
            text.inst(&format!("saddi {count}, {count}, -1"));
            let end = text.fresh("end");
            text.inst(&format!("loop {count}, {end}"));
            self.pass(text, |_, _| true, &[], true);
            text.label(&end);
            text.comment("drain");
            self.pass(text, |stage, _| stage == 1, &[], false);
        }
        text.label(&done);
    }

    /// As [`emit`](Rows::emit) for a count of at least one pass, with other lines beside the first and the last pass; pointers end
    /// anywhere. With `early` the steps from the first of its numbers on run in so many passes only, fewer than `count`.
    pub fn emit_beside(
        &self,
        text: &mut Text,
        early: Option<(usize, u64)>,
        [count, spare]: [&str; 2],
        beside: &Beside,
    ) {
        assert!(self.stages() == 2, "fill and drain are one pass each");
        let lasting = early.map_or(self.steps.len(), |(lasting, _)| lasting);
        text.comment("fill");
        self.pass(text, |stage, _| stage == 0, &beside.fill, true);
        let end = text.fresh("end");
        if let Some((_, first)) = early {
            assert!(first > 0, "early steps run at least once");
            let label = text.fresh("early");
            text.inst(&format!("sli {spare}, {}", first - 1));
            text.inst(&format!("saddi {count}, {count}, -{}", first + 1));
            text.inst(&format!("loop {spare}, {label}"));
            self.pass(text, |_, _| true, &[], true);
            text.label(&label);
            text.comment("the early steps drain");
            let active = |stage, step| step < lasting || stage == 1;
            self.pass(text, active, &[], true);
        } else {
            text.inst(&format!("saddi {count}, {count}, -1"));
        }
        text.inst(&format!("loop {count}, {end}"));
        self.pass(text, |_, step| step < lasting, &[], true);
        text.label(&end);
        text.comment("drain");
        let active = |stage, step| step < lasting && stage == 1;
        self.pass(text, active, &beside.drain, false);
    }

    /// One pass with the steps that `active` names, given their stage and index, and other lines behind those of their cycle. A pass
    /// that only drains leaves the pointers where they are.
    fn pass(
        &self,
        text: &mut Text,
        active: impl Fn(usize, usize) -> bool,
        beside: &[(usize, String)],
        moving: bool,
    ) {
        let period = self.period();
        // Pointers move in the last cycles, one a cycle: there is one scalar slot.
        let advance = |p: usize| period - 1 - p;
        for cycle in 0..period {
            for (index, step) in self.steps.iter().enumerate() {
                for row in 0..self.unroll {
                    let at = row * self.interval + step.cycle;
                    let stage = at / period;
                    if at % period != cycle || !active(stage, index) {
                        continue;
                    }
                    let offset = step.pointer.map_or(0, |p| {
                        let stride = self.pointers[p].step as i64;
                        let passes = stage as i64 + i64::from(moving && cycle > advance(p));
                        row as i64 * stride - passes * stride * self.unroll as i64
                    });
                    let line = (step.text)(row, offset);
                    if !line.is_empty() {
                        text.inst(&line);
                    }
                }
            }
            for (_, line) in beside.iter().filter(|(at, _)| *at == cycle) {
                text.inst(line);
            }
            for (index, p) in self.pointers.iter().enumerate() {
                if moving && cycle == advance(index) {
                    let bytes = p.step * self.unroll as u64;
                    text.inst(&format!("saddi {0}, {0}, {bytes}", p.register));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Address that a pass's text uses, in units of rows: walks the text as the machine would.
    fn walk(rows: &Rows, passes: usize) -> Vec<(char, i64)> {
        let mut text = Text::default();
        rows.emit(&mut text, "s2", "s3");
        let text = text.finish();
        let (mut pointer, mut seen) = ([0i64; 2], Vec::new());
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let inner = lines
            .iter()
            .position(|l| l.starts_with("loop s2"))
            .expect("the loop");
        let label = lines[inner].split(", ").nth(1).expect("a label");
        let end = lines
            .iter()
            .position(|l| *l == format!("{label}:"))
            .expect("the label");
        let mut order: Vec<usize> = (0..inner).collect();
        let turns = if rows.stages() == 1 {
            passes
        } else {
            passes - 1
        };
        for _ in 0..turns {
            order.extend(inner + 1..end);
        }
        order.extend(end..lines.len());
        for index in order {
            let words: Vec<&str> = lines[index].split([' ', ',']).collect();
            match words[0] {
                "ld" | "st" => {
                    let p = usize::from(words[0] == "st");
                    let offset: i64 = words[1].parse().expect("an offset");
                    seen.push((
                        words[0].chars().next().expect("a letter"),
                        pointer[p] + offset,
                    ));
                }
                "saddi" if words[1] == "sa" => {
                    pointer[0] += words[5].parse::<i64>().expect("bytes")
                }
                "saddi" if words[1] == "sb" => {
                    pointer[1] += words[5].parse::<i64>().expect("bytes")
                }
                _ => {}
            }
        }
        assert_eq!(
            pointer,
            [10, 3].map(|step| (passes * rows.unroll * step) as i64)
        );
        seen
    }

    #[test]
    fn every_row_is_loaded_and_stored_once_in_order() {
        for (interval, unroll, store) in [(2, 16, 24), (1, 8, 5), (2, 8, 0), (2, 8, 17)] {
            let rows = Rows {
                interval,
                unroll,
                pointers: vec![
                    Pointer {
                        register: "sa",
                        step: 10,
                    },
                    Pointer {
                        register: "sb",
                        step: 3,
                    },
                ],
                steps: vec![
                    access(0, 0, |_, offset| format!("ld {offset}")),
                    access(store, 1, |_, offset| format!("st {offset}")),
                ],
            };
            for passes in 1..5 {
                let seen = walk(&rows, passes);
                let of = |kind| seen.iter().filter(move |s| s.0 == kind).map(|s| s.1);
                let count = (unroll * passes) as i64;
                assert_eq!(
                    of('l').collect::<Vec<_>>(),
                    (0..count).map(|r| r * 10).collect::<Vec<_>>()
                );
                assert_eq!(
                    of('s').collect::<Vec<_>>(),
                    (0..count).map(|r| r * 3).collect::<Vec<_>>()
                );
            }
        }
    }
}
