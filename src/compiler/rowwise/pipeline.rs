//! A software pipeline for vector loops of any body: modulo schedule, rotating registers, text.
//!
//! Models: a body of [`Op`]s that runs `count` times. Iteration i starts at cycle i x interval; an operation stands at a fixed cycle of
//! its iteration, after its operands' latencies, where the chip's slots have room in every interval. A value of iteration i lies in
//! the register of i modulo `turns`. The count is known, so the text is exact: operations of the first iterations up to the steady
//! state, a hardware loop over `turns` iterations a pass, and what is left, the last iteration with its own mask. Leaves out:
//! choosing which operations a body has. Invariants: program order is cycle order, so an operation reads what an earlier one
//! wrote whatever the real latencies are; a register is written again only at a later cycle than its last reading; pointers
//! are where they were when the pipeline ends.

use crate::chip::Chip;
use crate::compiler::emit::Text;
use std::ops::Range;

/// A value of the body.
pub type Value = usize;

/// Which slot an operation takes, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    Arithmetic,
    /// A reduction over lanes: an arithmetic slot, with a latency of its own.
    Reduce,
    Special,
    Load,
    Store,
}

/// A set of lanes that an operation acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// All lanes.
    None,
    /// The row's last lanes, in the last iteration only.
    LastIteration,
    /// A predicate, always.
    Always(&'static str),
}

/// A place in memory: an offset from a pointer that moves from iteration to iteration.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// By index in [`Body::pointers`].
    pub pointer: usize,
    pub offset: i64,
}

/// An operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A value of the same iteration.
    Value(Value),
    /// A register that does not change in the loop.
    Fixed(String),
}

/// An instruction of every iteration.
#[derive(Clone, Debug)]
pub struct Op {
    /// As written, with `{d}` for the result, `{0}`, `{1}`, .. for operands, `{a}` for the accumulator, `{m}` for the place.
    pub text: String,
    pub slot: Slot,
    pub result: Option<Value>,
    pub operands: Vec<Operand>,
    /// Registers of an accumulator; iteration i uses the one of i modulo their number.
    pub accumulators: Vec<String>,
    pub place: Option<Place>,
    pub mask: Mask,
}

/// A pointer: a scalar register and the bytes that it moves per iteration.
#[derive(Clone, Debug)]
pub struct Pointer {
    pub register: &'static str,
    pub step: i64,
}

/// A loop body.
#[derive(Clone, Debug, Default)]
pub struct Body {
    pub ops: Vec<Op>,
    pub pointers: Vec<Pointer>,
    /// Values that are predicates; all others are vectors.
    pub predicates: Vec<Value>,
    /// Number of values.
    pub values: usize,
}

/// Free registers of a body.
#[derive(Clone, Debug, Default)]
pub struct Free {
    pub vectors: Vec<String>,
    pub predicates: Vec<String>,
}

/// A body in time and in registers.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Cycles from iteration to iteration.
    pub interval: usize,
    /// Iterations after which registers repeat.
    pub turns: usize,
    /// Cycle of each operation.
    cycles: Vec<usize>,
    /// Register of each value in iterations 0..turns.
    registers: Vec<Vec<String>>,
}

/// Cycles from issue to result, and cycles that the slot is held.
fn timing(op: &Op, chip: &Chip) -> (usize, usize) {
    let tvp = &chip.tvp;
    let lanes = u64::from(tvp.lanes_32);
    let port = |bytes: u32| (4 * lanes).div_ceil(u64::from(bytes.max(1))).max(1) as usize;
    let (latency, held) = match op.slot {
        Slot::Arithmetic => (tvp.arithmetic_latency_cycles as usize, 1),
        // Two cycles a level of the tree: the estimate of the timing model.
        Slot::Reduce => (2 * lanes.max(2).ilog2() as usize, 1),
        Slot::Special => {
            let held = lanes.div_ceil(u64::from(tvp.special_per_cycle_32.max(1)));
            (tvp.special_latency_cycles as usize, held as usize)
        }
        Slot::Load => (
            tvp.load_latency_cycles as usize,
            port(chip.tsram.tvp_load_bytes),
        ),
        Slot::Store => (1, port(chip.tsram.tvp_store_bytes)),
    };
    (latency.max(1) + held - 1, held)
}

/// Units of a slot, by its place in the table.
fn units(slot: Slot, chip: &Chip) -> (usize, usize) {
    let tvp = &chip.tvp;
    let (index, units) = match slot {
        Slot::Arithmetic | Slot::Reduce => (0, tvp.arithmetic_slots),
        Slot::Special => (1, tvp.special_slots),
        Slot::Load => (2, tvp.load_slots),
        Slot::Store => (3, tvp.store_slots),
    };
    (index, units.max(1) as usize)
}

/// Slots taken in every interval.
struct Table {
    interval: usize,
    taken: [Vec<usize>; 4],
}

impl Table {
    fn take(&mut self, op: &Op, at: usize, chip: &Chip) -> bool {
        let ((index, units), (_, held)) = (units(op.slot, chip), timing(op, chip));
        if held > self.interval * units {
            return false;
        }
        let taken = &mut self.taken[index];
        let cells = (at..at + held).map(|t| t % self.interval);
        let mut room = true;
        for cell in cells.clone() {
            // A longer hold than the interval meets itself in the next iteration.
            taken[cell] += 1;
            room &= taken[cell] <= units;
        }
        if !room {
            cells.for_each(|cell| taken[cell] -= 1);
        }
        room
    }

    fn give(&mut self, op: &Op, at: usize, chip: &Chip) {
        let ((index, _), (_, held)) = (units(op.slot, chip), timing(op, chip));
        for t in at..at + held {
            self.taken[index][t % self.interval] -= 1;
        }
    }
}

impl Body {
    /// The least interval that slots and accumulators allow.
    pub fn least_interval(&self, chip: &Chip) -> usize {
        let mut work = [0usize; 4];
        let mut least = 1;
        for op in &self.ops {
            let ((index, units), (latency, held)) = (units(op.slot, chip), timing(op, chip));
            work[index] += held;
            least = least.max(work[index].div_ceil(units));
            if !op.accumulators.is_empty() {
                least = least.max(latency.div_ceil(op.accumulators.len()));
            }
        }
        least
    }

    /// Cycles of a schedule at this interval, none if the slots do not allow it.
    fn place(&self, interval: usize, chip: &Chip) -> Option<Vec<usize>> {
        let mut table = Table {
            interval,
            taken: std::array::from_fn(|_| vec![0; interval]),
        };
        let mut made = vec![0usize; self.values];
        let mut cycles = Vec::with_capacity(self.ops.len());
        for op in &self.ops {
            let earliest = op.values().map(|v| made[v]).max().unwrap_or(0);
            let at = (earliest..earliest + interval).find(|at| table.take(op, *at, chip))?;
            if let Some(v) = op.result {
                made[v] = at + timing(op, chip).0;
            }
            cycles.push(at);
        }
        // What reads one value at most goes as late as its first reader allows: no register is held longer, most are held shorter.
        let mut wanted = vec![usize::MAX; self.values];
        for (i, op) in self.ops.iter().enumerate().rev() {
            let latest = op.result.map_or(0, |v| wanted[v].min(1 << 32));
            if op.values().nth(1).is_none() && op.result.is_some() {
                let last = latest.saturating_sub(timing(op, chip).0);
                table.give(op, cycles[i], chip);
                let at = (cycles[i]..=last)
                    .rev()
                    .find(|at| table.take(op, *at, chip));
                match at {
                    Some(at) => cycles[i] = at,
                    // It fits where it was.
                    None => {
                        table.take(op, cycles[i], chip);
                    }
                }
            }
            for v in op.values() {
                wanted[v] = wanted[v].min(cycles[i]);
            }
        }
        Some(cycles)
    }

    /// Registers of every value for `turns` iterations: first fit of the intervals in which they live.
    fn allocate(
        &self,
        cycles: &[usize],
        interval: usize,
        turns: usize,
        free: &Free,
    ) -> Option<Vec<Vec<String>>> {
        let period = interval * turns;
        let mut spans: Vec<Range<usize>> = vec![0..0; self.values];
        for (op, at) in self.ops.iter().zip(cycles) {
            for v in op.values() {
                spans[v].end = spans[v].end.max(at + 1);
            }
            if let Some(v) = op.result {
                spans[v] = *at..spans[v].end.max(at + 1);
            }
        }
        // Not enough registers for so many cycles, whatever the order.
        let held: usize = spans.iter().map(Range::len).sum();
        if held > interval * (free.vectors.len() + free.predicates.len()) {
            return None;
        }
        let mut order: Vec<(usize, Value, usize)> = (0..self.values)
            .flat_map(|v| (0..turns).map(move |turn| (v, turn)))
            .map(|(v, turn)| ((spans[v].start + turn * interval) % period, v, turn))
            .collect();
        order.sort_unstable();
        let mut registers = vec![vec![String::new(); turns]; self.values];
        // Which cycles of the period each register is taken in.
        let mut taken = [
            vec![vec![false; period]; free.vectors.len()],
            vec![vec![false; period]; free.predicates.len()],
        ];
        for (start, v, turn) in order {
            let length = spans[v].len();
            if length > period {
                return None;
            }
            let class = usize::from(self.predicates.contains(&v));
            let names = [&free.vectors, &free.predicates][class];
            let mut cells = (0..length).map(|t| (start + t) % period);
            let found = taken[class].iter().position(|register| {
                let mut cells = cells.clone();
                cells.all(|t| !register[t])
            })?;
            cells.by_ref().for_each(|t| taken[class][found][t] = true);
            registers[v][turn] = names[found].clone();
        }
        Some(registers)
    }

    /// A schedule with the shortest interval whose registers suffice; none if no interval does.
    pub fn schedule(&self, free: &Free, accumulators: usize, chip: &Chip) -> Option<Schedule> {
        let mut interval = self.least_interval(chip);
        // Without overlap of iterations nothing is gained by a longer interval.
        let longest = self
            .ops
            .iter()
            .map(|op| timing(op, chip))
            .fold(interval, |sum, (l, h)| sum + l + h);
        loop {
            if let Some(cycles) = self.place(interval, chip) {
                let depth = cycles.iter().max().map_or(0, |c| c / interval);
                for turns in [1, 2, 3, 4, 6, 8] {
                    // More turns than iterations in flight serve nothing.
                    if turns % accumulators.max(1) != 0 || turns > (2 * depth + 2).max(accumulators)
                    {
                        continue;
                    }
                    if let Some(registers) = self.allocate(&cycles, interval, turns, free) {
                        return Some(Schedule {
                            interval,
                            turns,
                            cycles,
                            registers,
                        });
                    }
                }
            }
            if interval >= longest {
                return None;
            }
            interval = (interval + 1 + interval / 8).min(longest);
        }
    }
}

impl Op {
    fn values(&self) -> impl Iterator<Item = Value> {
        self.operands.iter().filter_map(|o| match o {
            Operand::Value(v) => Some(*v),
            Operand::Fixed(_) => None,
        })
    }
}

impl Schedule {
    /// Cycles that `count` iterations take.
    pub fn cycles(&self, count: u64) -> u64 {
        let last = self.cycles.iter().max().map_or(0, |c| c + 1) as u64;
        count.saturating_sub(1) * self.interval as u64 + last
    }

    /// Iterations in flight before the steady state.
    pub fn fill(&self) -> u64 {
        let last = self.cycles.iter().max().map_or(0, |c| *c as u64);
        last / self.interval as u64
    }

    /// Emits a number of iterations that is known only when it runs: if `passes` is not 0 so many times `turns` and [`Schedule::fill`]
    /// more as a pipeline, then `rest` one by one. Both are scalar registers, `counter` a spare one; pointers end behind the last
    /// iteration.
    pub fn emit_counted(
        &self,
        text: &mut Text,
        body: &Body,
        passes: &str,
        rest: &str,
        counter: &str,
    ) {
        let (interval, turns, fill) = (self.interval as u64, self.turns as u64, self.fill());
        let mut order: Vec<usize> = (0..body.ops.len()).collect();
        order.sort_by_key(|i| self.cycles[*i]);
        let last = self.cycles.iter().max().map_or(0, |c| *c as u64);
        let window = |count: u64| Window {
            schedule: self,
            body,
            order: &order,
            count,
            tail: None,
        };
        let advance = |text: &mut Text, iterations: u64| {
            for p in &body.pointers {
                let bytes = p.step * iterations as i64;
                if bytes != 0 {
                    text.inst(&format!("saddi {0}, {0}, {bytes}", p.register));
                }
            }
        };
        // One pass stands for any number of them: what follows has the same registers and distances.
        let whole = window(fill + turns);
        let (from, length) = (fill * interval, turns * interval);
        let end = (fill + turns - 1) * interval + last + 1;
        let (piped, pass) = (text.fresh("at.piped"), text.fresh("at.pass"));
        text.inst_c(
            &format!("sli {counter}, 1"),
            "the pipeline, if there is a pass",
        );
        text.inst(&format!("smin {counter}, {counter}, {passes}"));
        text.inst(&format!("loop {counter}, {piped}"));
        whole.emit(text, 0..from, 0, false);
        text.inst(&format!("loop {passes}, {pass}"));
        window(u64::MAX).emit(text, from..from + length, 0, true);
        text.label(&pass);
        whole.emit(text, from + length..end, turns, false);
        advance(text, fill);
        text.label(&piped);
        let single = text.fresh("at.single");
        text.inst_c(
            &format!("loop {rest}, {single}"),
            "what fills no pass, one by one",
        );
        window(1).emit(text, 0..last + 1, 0, false);
        advance(text, 1);
        text.label(&single);
    }

    /// Emits `count` iterations; `tail` is the predicate of the last one's lanes, `counter` a spare scalar register.
    pub fn emit(
        &self,
        text: &mut Text,
        body: &Body,
        count: u64,
        tail: Option<&str>,
        counter: &str,
    ) {
        if count == 0 || body.ops.is_empty() {
            return;
        }
        let (interval, turns) = (self.interval as u64, self.turns as u64);
        let mut order: Vec<usize> = (0..body.ops.len()).collect();
        order.sort_by_key(|i| self.cycles[*i]);
        let last = self.cycles.iter().max().map_or(0, |c| *c as u64);
        let fill = last / interval;
        // The last iteration has a mask of its own.
        let plain = count - u64::from(tail.is_some());
        let passes = plain.saturating_sub(fill) / turns;
        let whole = Window {
            schedule: self,
            body,
            order: &order,
            count,
            tail,
        };
        let end = (count - 1) * interval + last + 1;
        if passes < 2 {
            whole.emit(text, 0..end, 0, false);
            return;
        }
        let (from, length) = (fill * interval, turns * interval);
        whole.emit(text, 0..from, 0, false);
        let done = text.fresh("at.pass");
        text.inst(&format!("sli {counter}, {passes}"));
        text.inst(&format!("loop {counter}, {done}"));
        whole.emit(text, from..from + length, 0, true);
        text.label(&done);
        let moved = passes * turns;
        whole.emit(text, from + passes * length..end, moved, false);
        for p in &body.pointers {
            let bytes = p.step * moved as i64;
            if bytes != 0 {
                text.inst(&format!("saddi {0}, {0}, {1}", p.register, -bytes));
            }
        }
    }
}

/// A part of the pipeline's time as text.
struct Window<'a> {
    schedule: &'a Schedule,
    body: &'a Body,
    /// Operations in the order of their cycles.
    order: &'a [usize],
    count: u64,
    tail: Option<&'a str>,
}

impl Window<'_> {
    /// Emits the operations of these cycles; pointers stand `moved` iterations further. `turn`: the window is a pass of the loop, in
    /// which pointers move.
    fn emit(&self, text: &mut Text, cycles: Range<u64>, moved: u64, turn: bool) {
        let s = self.schedule;
        let interval = s.interval as u64;
        // One pointer a cycle moves, in the last ones: there is one scalar slot.
        let moving: Vec<usize> = (0..self.body.pointers.len())
            .filter(|p| turn && self.body.pointers[*p].step != 0)
            .collect();
        let length = cycles.end.saturating_sub(cycles.start);
        let moves_at = |pointer: usize| {
            let place = moving.iter().position(|p| *p == pointer)?;
            Some(cycles.end - 1 - (place as u64).min(length - 1))
        };
        // Only some start in a cycle: those with its remainder.
        let mut starts: Vec<Vec<usize>> = vec![Vec::new(); interval as usize];
        for &index in self.order {
            starts[s.cycles[index] % s.interval].push(index);
        }
        for t in cycles.clone() {
            for &index in &starts[(t % interval) as usize] {
                let at = s.cycles[index] as u64;
                if t < at || (t - at) / interval >= self.count {
                    continue;
                }
                let iteration = (t - at) / interval;
                let offset = self.body.ops[index].place.map_or(0, |place| {
                    let p = &self.body.pointers[place.pointer];
                    let ahead = match moves_at(place.pointer) {
                        Some(m) if t > m => s.turns as i64,
                        _ => 0,
                    };
                    place.offset + p.step * (iteration as i64 - moved as i64 - ahead)
                });
                text.inst(&self.instance(index, iteration, offset));
            }
            for p in &moving {
                if moves_at(*p) == Some(t) {
                    let p = &self.body.pointers[*p];
                    let bytes = p.step * s.turns as i64;
                    text.inst(&format!("saddi {0}, {0}, {bytes}", p.register));
                }
            }
        }
    }

    fn instance(&self, index: usize, iteration: u64, offset: i64) -> String {
        let (s, op) = (self.schedule, &self.body.ops[index]);
        let turn = (iteration % s.turns as u64) as usize;
        let mut line = op.text.clone();
        if let Some(v) = op.result {
            line = line.replace("{d}", &s.registers[v][turn]);
        }
        for (i, operand) in op.operands.iter().enumerate() {
            let register = match operand {
                Operand::Value(v) => &s.registers[*v][turn],
                Operand::Fixed(name) => name,
            };
            line = line.replace(&format!("{{{i}}}"), register);
        }
        if !op.accumulators.is_empty() {
            let turn = (iteration % op.accumulators.len() as u64) as usize;
            line = line.replace("{a}", &op.accumulators[turn]);
        }
        if let Some(place) = op.place {
            let pointer = self.body.pointers[place.pointer].register;
            line = line.replace("{m}", &format!("{offset}({pointer})"));
        }
        match (op.mask, self.tail) {
            (Mask::Always(p), _) => line + " ?" + p,
            (Mask::LastIteration, Some(p)) if iteration + 1 == self.count => line + " ?" + p,
            _ => line,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `y = f(f(..f(x)))`, `depth` times, loaded and stored, with x added at the end if `late`.
    fn chain(depth: usize, late: bool) -> Body {
        let pointer = |register| Pointer {
            register,
            step: 512,
        };
        let op = |text: &str, slot, result, operands: &[Value], pointer: Option<usize>| Op {
            text: text.to_owned(),
            slot,
            result,
            operands: operands.iter().map(|v| Operand::Value(*v)).collect(),
            accumulators: Vec::new(),
            place: pointer.map(|pointer| Place { pointer, offset: 0 }),
            mask: match slot {
                Slot::Load | Slot::Store => Mask::LastIteration,
                _ => Mask::None,
            },
        };
        let mut ops = vec![op("ld {d}, {m}", Slot::Load, Some(0), &[], Some(0))];
        for v in 0..depth {
            ops.push(op("f {d}, {0}", Slot::Arithmetic, Some(v + 1), &[v], None));
        }
        let mut last = depth;
        if late {
            ops.push(op(
                "add {d}, {0}, {1}",
                Slot::Arithmetic,
                Some(depth + 1),
                &[depth, 0],
                None,
            ));
            last += 1;
        }
        ops.push(op("st {0}, {m}", Slot::Store, None, &[last], Some(1)));
        Body {
            ops,
            pointers: vec![pointer("s1"), pointer("s2")],
            predicates: Vec::new(),
            values: last + 1,
        }
    }

    fn free(registers: usize) -> Free {
        Free {
            vectors: (0..registers).map(|n| format!("v{n}")).collect(),
            predicates: Vec::new(),
        }
    }

    /// Runs emitted text on integers, f adding 1: what every address holds at the end.
    fn run(text: &str, loads: u64) -> Vec<(i64, i64)> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let (mut registers, mut pointers) = (vec![0i64; 64], [0i64; 3]);
        let (mut stored, mut at, mut left, mut start) = (Vec::new(), 0, 0i64, 0);
        let number = |word: &str| word[1..].parse::<usize>().unwrap();
        let mut seen = 0;
        while at < lines.len() {
            let line = lines[at].split(" ?").next().unwrap();
            let words: Vec<&str> = line
                .split([' ', ',', '(', ')'])
                .filter(|w| !w.is_empty())
                .collect();
            let address = |p: &[i64; 3]| words[2].parse::<i64>().unwrap() + p[number(words[3])];
            match words[0] {
                "ld" => {
                    registers[number(words[1])] = address(&pointers);
                    seen += 1;
                }
                "f" => registers[number(words[1])] = registers[number(words[2])] + 1,
                "add" => {
                    registers[number(words[1])] =
                        registers[number(words[2])] + registers[number(words[3])]
                }
                "st" => stored.push((address(&pointers), registers[number(words[1])])),
                "saddi" => pointers[number(words[1])] += words[3].parse::<i64>().unwrap(),
                "sli" => left = words[2].parse().unwrap(),
                "loop" => start = at,
                _ if line.starts_with("at.pass") => {
                    left -= 1;
                    if left > 0 {
                        at = start;
                    }
                }
                other => panic!("{other}"),
            }
            at += 1;
        }
        assert_eq!((seen, pointers), (loads, [0; 3]));
        stored
    }

    #[test]
    fn every_iteration_is_done_once_whatever_the_count() {
        let chip = Chip::preset("mini").unwrap();
        for (depth, late, registers) in [
            (1, false, 32),
            (4, true, 32),
            (7, true, 6),
            (12, true, 20),
            (30, false, 3),
        ] {
            let body = chain(depth, late);
            let schedule = body.schedule(&free(registers), 1, &chip).unwrap();
            for count in [1, 2, 3, 5, 16, 17, 40, 101] {
                for tail in [None, Some("p1")] {
                    let mut text = Text::default();
                    schedule.emit(&mut text, &body, count, tail, "s7");
                    let text = text.finish();
                    let masked = text.lines().filter(|l| l.ends_with("?p1")).count();
                    assert_eq!(masked, if tail.is_some() { 2 } else { 0 }, "{text}");
                    let got = run(&text, count);
                    let value = |x: i64| x + depth as i64 + if late { x } else { 0 };
                    let want: Vec<(i64, i64)> = (0..count as i64)
                        .map(|i| (512 * i, value(512 * i)))
                        .collect();
                    assert_eq!(got, want, "{depth} {late} {registers} x {count}\n{text}");
                }
            }
        }
    }

    #[test]
    fn slots_and_registers_bound_the_interval() {
        let chip = Chip::preset("maia-200").unwrap();
        // Three arithmetic slots, one load, one store.
        let interval = |depth, registers| {
            chain(depth, false)
                .schedule(&free(registers), 1, &chip)
                .map(|s| s.interval)
        };
        assert_eq!(interval(3, 32), Some(1));
        assert_eq!(interval(7, 64), Some(3));
        // A value a step, each for five cycles.
        assert!(interval(7, 4) > Some(8));
        assert_eq!(interval(7, 0), None);
    }
}
