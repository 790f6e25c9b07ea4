//! The vector kernels of a row-wise program.
//!
//! Models: a kernel's constants and scalars, its loop over blocks of rows, a pipeline per pass, and between passes the values
//! of a row, each in every lane of a register. Leaves out: control code. Invariants: no kernel needs more than the 32 vector
//! registers, constants that find none are read from a pool in SRAM; a kernel depends on lengths of strips, not on how many there are.
//!
//! Arguments: s1 a strip's slot, s2 its per-row part, s3 the fixed area, s4 the pool, and of [`Walk::Long`] s5 whole blocks, s6 rows beside.

mod streamed;

use super::body::{Builder, ONE, PER_ROW, POOL, REGISTERS, SLOT, TAIL, constant, reduction};
use super::graph::{Graph, Id, Kind};
use super::layout::{ELEMENT, Layout, Walk};
use super::passes::{Pass, passes};
use super::pipeline::Free;
use super::{Reduce, Rowwise, Spread};
use crate::chip::Chip;
use crate::compiler::emit::Text;
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;

/// A spare scalar register for numbers, and the counter of inner loops.
const NUMBER: &str = "s15";
const COUNTER: &str = "s7";

/// Registers of the accumulators of a reduction, for each row of the block.
type Accumulators = FxHashMap<(Id, usize), Vec<String>>;

/// A value found no register.
#[derive(Clone, Copy, Debug)]
pub struct Pressure;

/// What a program's kernels are made from.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub program: &'a Rowwise,
    pub graph: &'a Graph,
    pub layout: &'a Layout,
    pub chip: &'a Chip,
    /// Constants that are read from the pool, the least used first.
    pub pooled: usize,
    /// Whether every use of an input reads it anew.
    pub reload: bool,
}

/// Kernels as text, and what they take.
pub struct Kernels {
    pub text: String,
    /// Cycles of a full strip, or of a row of a streamed walk.
    pub cycles: u64,
    /// Intervals of the pipelines, for the plan.
    pub intervals: Vec<usize>,
}

/// Free vector registers.
#[derive(Clone)]
struct Registers(BTreeSet<u8>);

impl Registers {
    fn take(&mut self) -> Result<String, Pressure> {
        self.0.pop_first().map(name).ok_or(Pressure)
    }

    fn give(&mut self, register: &str) {
        if let Ok(n) = register[1..].parse() {
            self.0.insert(n);
        }
    }
}

fn name(n: u8) -> String {
    format!("v{n}")
}

/// A kernel under construction.
struct Kernel<'a> {
    s: Source<'a>,
    passes: Vec<Pass>,
    text: Text,
    free: Registers,
    /// Constants and scalars in registers.
    common: FxHashMap<Id, String>,
    /// Row values in registers: node and row of the block.
    values: FxHashMap<(Id, usize), String>,
    cycles: u64,
    intervals: Vec<usize>,
}

/// Constants, the least used first.
fn by_use(graph: &Graph) -> Vec<Id> {
    let constants = |id: &Id| matches!(graph.nodes[*id].kind, Kind::Const(_));
    let mut all: Vec<Id> = (0..graph.nodes.len()).filter(constants).collect();
    let uses = |id: Id| {
        let operands = graph.nodes.iter().filter(|n| !n.uniform());
        operands
            .flat_map(|n| n.operands())
            .filter(|o| **o == id)
            .count()
    };
    all.sort_by_key(|id| uses(*id));
    all
}

/// Number of constants: the most that [`Source::pooled`] can be.
pub fn constants(graph: &Graph) -> usize {
    by_use(graph).len()
}

/// The kernels of a program.
///
/// # Errors
/// More values than registers.
pub fn kernels(source: Source<'_>) -> Result<Kernels, Pressure> {
    let l = source.layout;
    let mut k = Kernel {
        s: source,
        passes: passes(source.graph, source.program, l.walk == Walk::Long),
        text: Text::default(),
        free: Registers(BTreeSet::new()),
        common: FxHashMap::default(),
        values: FxHashMap::default(),
        cycles: 0,
        intervals: Vec::new(),
    };
    match l.walk {
        Walk::Flat => {
            for (name, cols) in variants("rows", l.cols, l.last_cols, l.strips) {
                k.flat(&name, cols)?;
            }
        }
        Walk::Short => {
            for (name, rows) in variants("rows", l.strip, l.last_strip, l.strips) {
                k.short(&name, rows)?;
            }
        }
        Walk::Long => k.long()?,
        Walk::Streamed => k.streamed()?,
    }
    if source.layout.resident() {
        k.pool();
    }
    Ok(Kernels {
        text: k.text.finish(),
        cycles: k.cycles,
        intervals: k.intervals,
    })
}

/// The kernel of whole strips and that of the last one, if it is shorter.
pub fn variants(name: &str, whole: u64, last: u64, strips: u64) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    if strips > 1 || last == whole {
        all.push((name.to_owned(), whole));
    }
    if last != whole {
        all.push((format!("{name}_last"), last));
    }
    all
}

impl<'a> Kernel<'a> {
    fn number(&mut self, register: &str, bits: u32) {
        self.text.inst(&format!("sli {NUMBER}, {bits:#x}"));
        self.text.inst(&format!("vbc.f32 {register}, {NUMBER}"));
    }

    /// Opens a kernel: masks, constants, scalars.
    fn open(&mut self, name_: &str, doc: &str, tail: u64) -> Result<(), Pressure> {
        let (graph, program) = (self.s.graph, self.s.program);
        self.free = Registers((0..32).collect());
        self.common.clear();
        self.values.clear();
        self.text.blank();
        self.text.comment(doc);
        self.text.directive(&format!(".kernel k.{name_}"));
        if tail > 0 {
            self.text.inst(&format!("sli {NUMBER}, {tail}"));
            self.text.inst_c(
                &format!("vwhile.f32 {TAIL}, {NUMBER}"),
                "lanes of a row's last vector",
            );
        }
        if program.outputs.iter().any(|o| o.spread == Spread::PerRow) {
            self.text.inst(&format!("sli {NUMBER}, 1"));
            self.text.inst(&format!("vwhile.f32 {ONE}, {NUMBER}"));
        }
        for id in by_use(graph).into_iter().skip(self.s.pooled) {
            if let Kind::Const(bits) = graph.nodes[id].kind {
                let register = self.free.take()?;
                self.text.inst(&format!("sli {NUMBER}, {bits:#x}"));
                let value = f32::from_bits(bits);
                self.text.inst_c(
                    &format!("vbc.f32 {register}, {NUMBER}"),
                    &format!("{value:e}"),
                );
                self.common.insert(id, register);
            }
        }
        for id in 0..graph.nodes.len() {
            let node = &graph.nodes[id];
            if node.spread == Spread::Scalar && !matches!(node.kind, Kind::Const(_)) {
                let register = self.uniform(id, 0)?;
                self.common.insert(id, register);
                self.release_scalars(id);
            }
        }
        Ok(())
    }

    /// Gives back the registers of scalars whose last user is this one.
    fn release_scalars(&mut self, user: Id) {
        let graph = self.s.graph;
        for id in graph.nodes[user].operands() {
            let constant = matches!(graph.nodes[*id].kind, Kind::Const(_));
            // Scalars are made first: whatever else reads it comes after them, wherever it stands in the graph.
            let later = graph.nodes.iter().enumerate().any(|(n, node)| {
                (n > user || node.spread != Spread::Scalar) && node.operands().contains(id)
            });
            if !constant
                && !later
                && !graph.outputs.contains(id)
                && let Some(register) = self.common.remove(id)
            {
                self.free.give(&register);
            }
        }
    }

    /// The register of a value that is the same along the row; the flag says that it is a constant read for this use only.
    fn register(&mut self, id: Id, row: usize) -> Result<(String, bool), Pressure> {
        if let Some(r) = self.common.get(&id).or_else(|| self.values.get(&(id, row))) {
            return Ok((r.clone(), false));
        }
        let Kind::Const(bits) = self.s.graph.nodes[id].kind else {
            unreachable!("row value {id} is used before it is made");
        };
        let register = self.free.take()?;
        let at = constant(self.s.layout, bits);
        self.text
            .inst(&format!("vld.f32 {register}, {at}({})", REGISTERS[POOL]));
        Ok((register, true))
    }

    /// Emits a node that is the same along the row.
    fn uniform(&mut self, id: Id, row: usize) -> Result<String, Pressure> {
        let (graph, program, l) = (self.s.graph, self.s.program, self.s.layout);
        let node = &graph.nodes[id];
        let to = self.free.take()?;
        if let Kind::Input(i) = node.kind {
            let (pointer, aside) = match program.inputs[i].spread {
                Spread::PerRow if l.walk != Walk::Streamed => (PER_ROW, row as u64 * ELEMENT),
                _ => (POOL, 0),
            };
            let at = l.inputs[i] + aside;
            self.text
                .inst(&format!("vldb.f32 {to}, {at}({})", REGISTERS[pointer]));
            return Ok(to);
        }
        let mut from = Vec::new();
        let mut spare = Vec::new();
        for operand in node.operands() {
            let (register, own) = self.register(*operand, row)?;
            if own {
                spare.push(register.clone());
            }
            from.push(register);
        }
        let line = match &node.kind {
            Kind::Vector(text, ..) => {
                let line = text.replace("{d}", &to);
                let operands = from.iter().enumerate();
                operands.fold(line, |line, (i, r)| line.replace(&format!("{{{i}}}"), r))
            }
            Kind::Narrow(dtype, _) => format!("vcvt.{dtype}.f32 {to}, {}, 0, 0", from[0]),
            Kind::Ieee(dtype, _) => {
                format!("vcvtm.rne.ieee.{dtype}.f32 {to}, {0}, {0}, 0, 0", from[0])
            }
            Kind::Widen(dtype, _) => format!("vcvt.f32.{dtype} {to}, {}, 0, 0", from[0]),
            Kind::Choose(cc, _) => {
                self.text
                    .inst(&format!("vcmp.{cc}.f32 p3, {}, {}", from[0], from[1]));
                format!("vsel.f32 {to}, p3, {}, {}", from[2], from[3])
            }
            Kind::Input(_) | Kind::Const(_) | Kind::Reduce(..) => unreachable!("made elsewhere"),
        };
        self.text.inst(&line);
        spare.iter().for_each(|r| self.free.give(r));
        Ok(to)
    }

    /// Row values of a level, and what they are needed for later: the last section (2 x level) or pass (2 x pass + 1).
    fn last_use(&self, id: Id) -> usize {
        let graph = self.s.graph;
        let users = graph
            .nodes
            .iter()
            .filter(|n| n.spread == Spread::PerRow && !matches!(n.kind, Kind::Reduce(..)));
        let sections = users
            .filter(|n| n.operands().contains(&id))
            .map(|n| 2 * n.level);
        let in_passes = self.passes.iter().enumerate();
        let in_passes = in_passes
            .filter(|(_, p)| p.uniform(graph).contains(&id))
            .map(|(p, _)| 2 * p + 1);
        sections.chain(in_passes).max().unwrap_or(0)
    }

    /// Row values of a level, in order.
    fn row_values(&self, level: usize) -> Vec<Id> {
        let graph = self.s.graph;
        let of =
            |id: &Id| graph.nodes[*id].spread == Spread::PerRow && graph.nodes[*id].level == level;
        (0..graph.nodes.len()).filter(of).collect()
    }

    /// The values of a row that come before pass `level`: reductions of the pass before, and what follows from them.
    fn section(
        &mut self,
        level: usize,
        rows: usize,
        accumulators: &Accumulators,
    ) -> Result<(), Pressure> {
        let graph = self.s.graph;
        let all = self.row_values(level);
        let mut latency = 0;
        for (i, &id) in all.iter().enumerate() {
            for row in 0..rows {
                let register = match &graph.nodes[id].kind {
                    Kind::Reduce(f, _) => {
                        let accumulators = &accumulators[&(id, row)];
                        self.reduced(*f, accumulators)
                    }
                    _ => self.uniform(id, row)?,
                };
                self.values.insert((id, row), register);
            }
            latency += match graph.nodes[id].kind {
                Kind::Reduce(..) => 2 * self.s.layout.lanes.max(2).ilog2() as u64,
                _ => u64::from(self.s.chip.tvp.special_latency_cycles),
            };
            let here = |o: Id| {
                all[i + 1..].iter().any(|u| {
                    graph.nodes[*u].operands().contains(&o)
                        && !matches!(graph.nodes[*u].kind, Kind::Reduce(..))
                })
            };
            let output = |o: Id| {
                self.s
                    .graph
                    .outputs
                    .iter()
                    .enumerate()
                    .any(|(n, x)| *x == o && self.s.program.outputs[n].spread == Spread::PerRow)
            };
            let mut dead: Vec<Id> = graph.nodes[id].operands().to_vec();
            dead.push(id);
            dead.retain(|o| {
                graph.nodes[*o].spread == Spread::PerRow
                    && self.last_use(*o) <= 2 * level
                    && !here(*o)
                    && !output(*o)
            });
            self.release(&dead, rows);
        }
        self.cycles += latency;
        for (n, id) in graph.outputs.iter().enumerate() {
            let o = &self.s.program.outputs[n];
            if o.spread != Spread::PerRow || graph.nodes[*id].level != level {
                continue;
            }
            for row in 0..rows {
                let (register, own) = self.register(*id, row)?;
                let (pointer, aside) = match self.s.layout.walk {
                    Walk::Streamed => (POOL, 0),
                    _ => (PER_ROW, row as u64 * ELEMENT),
                };
                let at = self.s.layout.outputs[n] + aside;
                self.text.inst(&format!(
                    "vst.f32 {register}, {at}({}) ?{ONE}",
                    REGISTERS[pointer]
                ));
                if own {
                    self.free.give(&register);
                }
            }
        }
        let dead: Vec<Id> = (0..graph.nodes.len())
            .filter(|id| self.last_use(*id) <= 2 * level)
            .collect();
        self.release(&dead, rows);
        Ok(())
    }

    fn release(&mut self, ids: &[Id], rows: usize) {
        for id in ids {
            for row in 0..rows {
                if let Some(register) = self.values.remove(&(*id, row)) {
                    self.free.give(&register);
                }
            }
        }
    }

    /// One register from a row's accumulators.
    fn reduced(&mut self, f: Reduce, accumulators: &[String]) -> String {
        let (across, between) = reduction(f);
        let first = accumulators[0].clone();
        for other in &accumulators[1..] {
            self.text
                .inst(&format!("{between} {first}, {first}, {other}"));
            self.free.give(other);
        }
        self.text.inst(&format!("{across} {first}, {first}"));
        first
    }

    fn start(&mut self, f: Reduce, registers: &[String]) {
        let bits = match f {
            Reduce::Sum => 0,
            Reduce::Max => f32::NEG_INFINITY.to_bits(),
            Reduce::Min => f32::INFINITY.to_bits(),
        };
        self.text.inst(&format!("sli {NUMBER}, {bits:#x}"));
        for register in registers {
            self.text.inst(&format!("vbc.f32 {register}, {NUMBER}"));
        }
    }

    /// A pass's body with accumulators in these registers.
    fn body(&self, pass: &Pass, rows: usize, accumulators: &Accumulators) -> Builder<'a> {
        let s = self.s;
        let mut b = Builder::rows(s.program, s.graph, s.layout, rows as u64);
        b.reload = s.reload;
        for (id, register) in &self.common {
            for row in 0..rows {
                b.given(*id, row, register.clone());
            }
        }
        for ((id, row), register) in &self.values {
            b.given(*id, *row, register.clone());
        }
        for id in &pass.read {
            b.read(*id);
        }
        for id in &pass.nodes {
            b.node(*id);
            if pass.keep.contains(id) {
                b.keep(*id);
            }
        }
        for id in &pass.reduces {
            if let Kind::Reduce(f, of) = s.graph.nodes[*id].kind {
                for row in 0..rows {
                    let registers = accumulators.get(&(*id, row)).cloned().unwrap_or_default();
                    b.accumulate(f, of, row, registers);
                }
            }
        }
        for o in &pass.outputs {
            b.output(*o);
        }
        b
    }

    /// Accumulators: as many a row as hide the latency of an addition.
    fn accumulators(
        &mut self,
        pass: &Pass,
        rows: usize,
    ) -> Result<(usize, Accumulators), Pressure> {
        let named = |n: usize| {
            let keys = pass
                .reduces
                .iter()
                .flat_map(|id| (0..rows).map(move |row| (*id, row)));
            keys.map(|key| (key, vec!["v0".to_owned(); n]))
                .collect::<Accumulators>()
        };
        let least = |n: usize| {
            self.body(pass, rows, &named(n))
                .body
                .least_interval(self.s.chip)
        };
        let many = match pass.reduces.is_empty() {
            true => 1,
            false => [1, 2, 4]
                .into_iter()
                .min_by_key(|n| (least(*n), *n))
                .unwrap_or(1),
        };
        let mut all = named(many);
        for id in &pass.reduces {
            for row in 0..rows {
                let mut registers = Vec::new();
                for _ in 0..many {
                    registers.push(self.free.take()?);
                }
                all.insert((*id, row), registers);
            }
        }
        Ok((many, all))
    }

    fn spare(&self) -> Free {
        Free {
            vectors: self.free.0.iter().map(|n| name(*n)).collect(),
            predicates: (3..8).map(|n| format!("p{n}")).collect(),
        }
    }

    /// Emits a body `count` times.
    fn pipeline(
        &mut self,
        b: Builder<'a>,
        many: usize,
        count: u64,
        tail: bool,
        times: u64,
    ) -> Result<(), Pressure> {
        let schedule = b
            .body
            .schedule(&self.spare(), many, self.s.chip)
            .ok_or(Pressure)?;
        schedule.emit(
            &mut self.text,
            &b.body,
            count,
            tail.then_some(TAIL),
            COUNTER,
        );
        self.cycles += times * schedule.cycles(count);
        self.intervals.push(schedule.interval);
        Ok(())
    }

    fn flat(&mut self, name_: &str, cols: u64) -> Result<(), Pressure> {
        let lanes = self.s.layout.lanes;
        self.cycles = 0;
        self.open(
            name_,
            &format!("{cols} elements, vector by vector."),
            cols % lanes,
        )?;
        let pass = self.passes.first().cloned().unwrap_or_default();
        let b = self.body(&pass, 1, &Accumulators::default());
        self.pipeline(b, 1, cols.div_ceil(lanes), !cols.is_multiple_of(lanes), 1)?;
        self.text.inst("vret");
        Ok(())
    }

    fn short(&mut self, name_: &str, rows: u64) -> Result<(), Pressure> {
        let (s, l) = (self.s, self.s.layout);
        self.cycles = 0;
        self.open(
            name_,
            &format!("{rows} rows of {} elements, row by row.", l.cols),
            l.cols % l.lanes,
        )?;
        let mut b = Builder::vectors(s.program, s.graph, l);
        b.reload = s.reload;
        for (id, register) in &self.common {
            b.given(*id, 0, register.clone());
        }
        for (id, node) in s.graph.nodes.iter().enumerate() {
            if node.spread != Spread::Scalar {
                b.node(id);
            }
        }
        for o in 0..s.program.outputs.len() {
            b.output(o);
        }
        self.pipeline(b, 1, rows, false, 1)?;
        self.text.inst("vret");
        Ok(())
    }

    fn long(&mut self) -> Result<(), Pressure> {
        let l = self.s.layout;
        self.open(
            "rows",
            &format!("Rows of {} elements, {} together.", l.cols, l.block),
            l.cols % l.lanes,
        )?;
        let common = self.free.clone();
        let beside = !l.strip.is_multiple_of(l.block) || !l.last_strip.is_multiple_of(l.block);
        let blocks = [(l.block, "s5", true), (1, "s6", beside && l.block > 1)];
        for (rows, counter, used) in blocks {
            if !used {
                continue;
            }
            self.free = common.clone();
            self.values.clear();
            let before = self.cycles;
            let end = self.text.fresh("at.block");
            self.text.inst(&format!("loop {counter}, {end}"));
            self.rows_of_block(rows as usize)?;
            self.text.inst(&format!(
                "saddi {0}, {0}, {1}",
                REGISTERS[SLOT],
                rows * l.row()
            ));
            self.text.inst(&format!(
                "saddi {0}, {0}, {1}",
                REGISTERS[PER_ROW],
                rows * ELEMENT
            ));
            self.text.label(&end);
            let took = self.cycles - before;
            self.cycles = before
                + took
                    * if counter == "s5" {
                        l.strip / rows
                    } else {
                        l.strip % l.block
                    };
        }
        self.text.inst("vret");
        Ok(())
    }

    fn rows_of_block(&mut self, rows: usize) -> Result<(), Pressure> {
        let l = self.s.layout;
        let vectors = l.cols.div_ceil(l.lanes);
        self.section(0, rows, &Accumulators::default())?;
        for p in 0..self.passes.len() {
            let pass = self.passes[p].clone();
            let (many, accumulators) = self.accumulators(&pass, rows)?;
            for id in &pass.reduces {
                if let Kind::Reduce(f, _) = self.s.graph.nodes[*id].kind {
                    for row in 0..rows {
                        self.start(f, &accumulators[&(*id, row)]);
                    }
                }
            }
            let b = self.body(&pass, rows, &accumulators);
            self.pipeline(b, many, vectors, !l.cols.is_multiple_of(l.lanes), 1)?;
            let dead: Vec<Id> = (0..self.s.graph.nodes.len())
                .filter(|id| self.last_use(*id) <= 2 * p + 1)
                .collect();
            self.release(&dead, rows);
            self.section(p + 1, rows, &accumulators)?;
        }
        Ok(())
    }

    /// Writes the constants' vectors.
    fn pool(&mut self) {
        self.text.blank();
        self.text.comment("The pool of constants. s4: the pool");
        self.text.directive(".kernel k.pool");
        for (bits, at) in self.s.layout.constants.clone() {
            self.number("v0", bits);
            self.save("v0", at);
        }
        self.text.inst("vret");
    }
}
