//! Kernels of rows that are streamed in chunks: accumulators and row values go from launch to launch by way of the pool.
//!
//! Models: a kernel per pass and length of chunk, and one before, between and after passes, which makes row values of accumulators.
//! Leaves out: the order of launches ([`super::super::code`]). Invariant: a kernel reads only states that one before it wrote.

use super::{Kernel, Pressure, variants};
use crate::compiler::rowwise::Spread;
use crate::compiler::rowwise::body::{ONE, POOL, REGISTERS};
use crate::compiler::rowwise::graph::{Id, Kind};
use rustc_hash::FxHashMap;

impl Kernel<'_> {
    /// Offset in the pool of a row value, or of a reduction's accumulators.
    pub(super) fn state(&self, id: Id, accumulator: Option<usize>) -> u64 {
        let graph = self.s.graph;
        let l = self.s.layout;
        let rows = graph
            .nodes
            .iter()
            .filter(|n| n.spread == Spread::PerRow)
            .count();
        let index = match accumulator {
            None => graph.nodes[..id]
                .iter()
                .filter(|n| n.spread == Spread::PerRow)
                .count(),
            Some(n) => {
                let before = graph.nodes[..id]
                    .iter()
                    .filter(|n| matches!(n.kind, Kind::Reduce(..)));
                rows + 8 * before.count() + n
            }
        };
        l.state + index as u64 * l.vector()
    }

    pub(super) fn restore(&mut self, register: &str, at: u64) {
        self.text
            .inst(&format!("vld.f32 {register}, {at}({})", REGISTERS[POOL]));
    }

    pub(super) fn save(&mut self, register: &str, at: u64) {
        self.text
            .inst(&format!("vst.f32 {register}, {at}({})", REGISTERS[POOL]));
    }

    pub(super) fn streamed(&mut self) -> Result<(), Pressure> {
        let l = self.s.layout;
        let graph = self.s.graph;
        self.cycles = 0;
        let mut many_of: FxHashMap<Id, usize> = FxHashMap::default();
        for p in 0..self.passes.len() {
            let pass = self.passes[p].clone();
            for (name_, cols) in variants(&format!("pass_{p}"), l.cols, l.last_cols, l.chunks) {
                let times = if cols == l.cols { l.chunks } else { 0 };
                self.open(
                    &name_,
                    &format!("Pass {p} over {cols} elements of a row."),
                    cols % l.lanes,
                )?;
                for id in pass.uniform(graph) {
                    if graph.nodes[id].spread == Spread::PerRow {
                        let register = self.free.take()?;
                        self.restore(&register, self.state(id, None));
                        self.values.insert((id, 0), register);
                    }
                }
                let (many, accumulators) = self.accumulators(&pass, 1)?;
                for id in &pass.reduces {
                    many_of.insert(*id, many);
                    for (n, register) in accumulators[&(*id, 0)].iter().enumerate() {
                        self.restore(register, self.state(*id, Some(n)));
                    }
                }
                let b = self.body(&pass, 1, &accumulators);
                self.pipeline(b, many, cols.div_ceil(l.lanes), cols % l.lanes != 0, times)?;
                for id in &pass.reduces {
                    for (n, register) in accumulators[&(*id, 0)].iter().enumerate() {
                        self.save(register, self.state(*id, Some(n)));
                    }
                }
                self.text.inst("vret");
            }
        }
        for level in 0..=self.passes.len() {
            self.row_kernel(level, &many_of)?;
        }
        Ok(())
    }

    /// The kernel of a streamed row between passes: from accumulators to values, both in the pool.
    fn row_kernel(&mut self, level: usize, many_of: &FxHashMap<Id, usize>) -> Result<(), Pressure> {
        let graph = self.s.graph;
        self.open(
            &format!("row_{level}"),
            &format!("Values of a row before pass {level}."),
            0,
        )?;
        if level == 0 {
            let mut all: Vec<(Id, usize)> = many_of.iter().map(|(id, many)| (*id, *many)).collect();
            all.sort_unstable();
            let register = self.free.take()?;
            for (id, many) in all {
                if let Kind::Reduce(f, _) = graph.nodes[id].kind {
                    self.start(f, std::slice::from_ref(&register));
                    (0..many).for_each(|n| self.save(&register, self.state(id, Some(n))));
                }
            }
            self.free.give(&register);
        }
        for id in self.row_values(level) {
            let register = match &graph.nodes[id].kind {
                Kind::Reduce(f, _) => {
                    let mut registers = Vec::new();
                    for n in 0..many_of.get(&id).copied().unwrap_or(1) {
                        let register = self.free.take()?;
                        self.restore(&register, self.state(id, Some(n)));
                        registers.push(register);
                    }
                    self.reduced(*f, &registers)
                }
                _ => {
                    let mut given = Vec::new();
                    for operand in graph.nodes[id].operands().to_vec() {
                        if graph.nodes[operand].spread == Spread::PerRow
                            && !self.values.contains_key(&(operand, 0))
                        {
                            let register = self.free.take()?;
                            self.restore(&register, self.state(operand, None));
                            self.values.insert((operand, 0), register);
                            given.push(operand);
                        }
                    }
                    let register = self.uniform(id, 0)?;
                    self.release(&given, 1);
                    register
                }
            };
            // Every value goes by way of the pool, so that few registers are held.
            self.save(&register, self.state(id, None));
            self.free.give(&register);
        }
        for (n, id) in graph.outputs.iter().enumerate() {
            let o = &self.s.program.outputs[n];
            if o.spread != Spread::PerRow || graph.nodes[*id].level != level {
                continue;
            }
            if graph.nodes[*id].spread == Spread::PerRow {
                let register = self.free.take()?;
                self.restore(&register, self.state(*id, None));
                self.values.insert((*id, 0), register);
            }
            let (register, own) = self.register(*id, 0)?;
            let at = self.s.layout.outputs[n];
            self.text.inst(&format!(
                "vst.f32 {register}, {at}({}) ?{ONE}",
                REGISTERS[POOL]
            ));
            if own {
                self.free.give(&register);
            }
            self.release(&[*id], 1);
        }
        self.text.inst("vret");
        Ok(())
    }
}
