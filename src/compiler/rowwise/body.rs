//! Loop bodies: nodes of a pass, or of a whole short row, as operations of a pipeline.
//!
//! Models: which copies of a node an iteration has (one per row of a block, or one per vector of a short row), where tensors are in
//! memory, masks of last vectors. Leaves out: the schedule. Invariant: lanes past the end of a row are neither stored nor
//! reduced; what they hold else does not matter.

use super::graph::{Graph, Id, Kind};
use super::layout::{Layout, Walk};
use super::pipeline::{Body, Mask, Op, Operand, Place, Pointer, Slot};
use super::{Reduce, Rowwise, Spread};
use rustc_hash::FxHashMap;

/// Pointers of kernels, in the order of their scalar registers s1..s4: the slot, its per-row part, the fixed area, the pool.
pub const SLOT: usize = 0;
pub const PER_ROW: usize = 1;
pub const FIXED: usize = 2;
pub const POOL: usize = 3;
/// Their registers.
pub const REGISTERS: [&str; 4] = ["s1", "s2", "s3", "s4"];

/// The lanes of a row's last vector.
pub const TAIL: &str = "p1";
/// One lane.
pub const ONE: &str = "p2";

/// The instruction of a reduction over lanes, and of one step between vectors.
pub fn reduction(f: Reduce) -> (&'static str, &'static str) {
    match f {
        Reduce::Sum => ("vredsum.f32", "vadd.f32"),
        Reduce::Max => ("vredmax.f32", "vmax.f32"),
        Reduce::Min => ("vredmin.f32", "vmin.f32"),
    }
}

/// A body under construction.
pub struct Builder<'a> {
    pub program: &'a Rowwise,
    pub graph: &'a Graph,
    pub layout: &'a Layout,
    pub body: Body,
    /// Copies of a node that varies along the row.
    copies: usize,
    /// Bytes between copies in a slot.
    apart: u64,
    /// Whether copies are vectors of one row, the last of which has a tail.
    vectors: bool,
    tail: bool,
    /// Whether every use of an input reads it anew: more loads, registers held shorter.
    pub reload: bool,
    made: FxHashMap<(Id, usize), Operand>,
}

impl<'a> Builder<'a> {
    /// A body of `copies` rows side by side, one vector of each.
    pub fn rows(
        program: &'a Rowwise,
        graph: &'a Graph,
        layout: &'a Layout,
        copies: u64,
    ) -> Builder<'a> {
        let v = layout.vector() as i64;
        Builder::new(
            program,
            graph,
            layout,
            copies,
            layout.row(),
            false,
            false,
            [v, 0, v, 0],
        )
    }

    /// A body of all vectors of a row.
    pub fn vectors(program: &'a Rowwise, graph: &'a Graph, layout: &'a Layout) -> Builder<'a> {
        let copies = layout.cols.div_ceil(layout.lanes);
        let tail = !layout.cols.is_multiple_of(layout.lanes);
        let steps = [layout.row() as i64, super::layout::ELEMENT as i64, 0, 0];
        Builder::new(
            program,
            graph,
            layout,
            copies,
            layout.vector(),
            true,
            tail,
            steps,
        )
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the two bodies differ in all of them"
    )]
    fn new(
        program: &'a Rowwise,
        graph: &'a Graph,
        layout: &'a Layout,
        copies: u64,
        apart: u64,
        vectors: bool,
        tail: bool,
        steps: [i64; 4],
    ) -> Builder<'a> {
        let pointers = REGISTERS.into_iter().zip(steps);
        let pointers = pointers.map(|(register, step)| Pointer { register, step });
        Builder {
            program,
            graph,
            layout,
            body: Body {
                pointers: pointers.collect(),
                ..Body::default()
            },
            copies: copies as usize,
            apart,
            vectors,
            tail,
            reload: false,
            made: FxHashMap::default(),
        }
    }

    /// Copies of a node.
    fn copies_of(&self, id: Id) -> usize {
        match self.graph.nodes[id].spread {
            Spread::Full => self.copies,
            Spread::PerColumn if self.vectors => self.copies,
            _ => 1,
        }
    }

    /// Says in which register a value is that the body does not make; `copy` is its row.
    pub fn given(&mut self, id: Id, copy: usize, register: String) {
        self.made.insert((id, copy), Operand::Fixed(register));
    }

    fn value(&mut self) -> usize {
        self.body.values += 1;
        self.body.values - 1
    }

    /// The operand of a copy; constants that have no register come from the pool.
    fn operand(&mut self, id: Id, copy: usize) -> Operand {
        let copy = match self.graph.nodes[id].spread {
            Spread::PerRow if !self.vectors => copy,
            _ => copy.min(self.copies_of(id) - 1),
        };
        if let Some(operand) = self.made.get(&(id, copy)) {
            return operand.clone();
        }
        if matches!(self.graph.nodes[id].kind, Kind::Input(_)) {
            return self.copy(id, copy);
        }
        // Only constants are neither given nor made before, and inputs that are read anew.
        let Kind::Const(bits) = self.graph.nodes[id].kind else {
            unreachable!("node {id} is used before it is made");
        };
        let offset = constant(self.layout, bits);
        let operand = self.load("vld.f32", POOL, offset, Mask::None);
        self.made.insert((id, copy), operand.clone());
        operand
    }

    fn load(&mut self, name: &str, pointer: usize, offset: u64, mask: Mask) -> Operand {
        let value = self.value();
        self.body.ops.push(Op {
            text: format!("{name} {{d}}, {{m}}"),
            slot: Slot::Load,
            result: Some(value),
            operands: Vec::new(),
            accumulators: Vec::new(),
            place: Some(Place {
                pointer,
                offset: offset as i64,
            }),
            mask,
        });
        Operand::Value(value)
    }

    fn compute(&mut self, text: String, slot: Slot, operands: Vec<Operand>, mask: Mask) -> Operand {
        let value = self.value();
        self.body.ops.push(Op {
            text,
            slot,
            result: Some(value),
            operands,
            accumulators: Vec::new(),
            place: None,
            mask,
        });
        Operand::Value(value)
    }

    /// The mask of a copy's memory accesses and reductions.
    fn mask(&self, copy: usize) -> Mask {
        match (self.vectors, self.tail && copy + 1 == self.copies) {
            (false, _) => Mask::LastIteration,
            (true, true) => Mask::Always(TAIL),
            (true, false) => Mask::None,
        }
    }

    /// Makes a node, every copy.
    pub fn node(&mut self, id: Id) {
        if self.reload && matches!(self.graph.nodes[id].kind, Kind::Input(_)) {
            return;
        }
        for copy in 0..self.copies_of(id) {
            let made = self.copy(id, copy);
            self.made.insert((id, copy), made);
        }
    }

    fn copy(&mut self, id: Id, copy: usize) -> Operand {
        let graph = self.graph;
        let operands =
            |b: &mut Self, ids: &[Id]| ids.iter().map(|i| b.operand(*i, copy)).collect::<Vec<_>>();
        match &graph.nodes[id].kind {
            Kind::Input(i) => {
                let offset = self.layout.inputs[*i];
                let aside = copy as u64 * self.apart;
                match self.program.inputs[*i].spread {
                    Spread::Full => self.load("vld.f32", SLOT, offset + aside, self.mask(copy)),
                    Spread::PerColumn => {
                        let streamed = self.layout.walk == Walk::Streamed;
                        let pointer = if streamed { SLOT } else { FIXED };
                        let aside = if self.vectors { aside } else { 0 };
                        self.load("vld.f32", pointer, offset + aside, self.mask(copy))
                    }
                    Spread::PerRow => self.load("vldb.f32", PER_ROW, offset, Mask::None),
                    Spread::Scalar => self.load("vldb.f32", POOL, offset, Mask::None),
                }
            }
            Kind::Const(_) => self.operand(id, copy),
            Kind::Vector(text, slot, ids) => {
                let operands = operands(self, ids);
                self.compute((*text).to_owned(), *slot, operands, Mask::None)
            }
            Kind::Narrow(dtype, of) => {
                let operands = operands(self, &[*of]);
                let text = format!("vcvt.{dtype}.f32 {{d}}, {{0}}, 0, 0");
                self.compute(text, Slot::Arithmetic, operands, Mask::None)
            }
            Kind::Ieee(dtype, of) => {
                let operands = operands(self, &[*of]);
                // The second is of random bits, which this rounding does not read.
                let text = format!("vcvtm.rne.ieee.{dtype}.f32 {{d}}, {{0}}, {{0}}, 0, 0");
                self.compute(text, Slot::Arithmetic, operands, Mask::None)
            }
            Kind::Widen(dtype, of) => {
                let operands = operands(self, &[*of]);
                let text = format!("vcvt.f32.{dtype} {{d}}, {{0}}, 0, 0");
                self.compute(text, Slot::Arithmetic, operands, Mask::None)
            }
            Kind::Choose(cc, [a, b, x, y]) => {
                let compared = operands(self, &[*a, *b]);
                let text = format!("vcmp.{cc}.f32 {{d}}, {{0}}, {{1}}");
                let which = self.compute(text, Slot::Arithmetic, compared, Mask::None);
                if let Operand::Value(v) = which {
                    self.body.predicates.push(v);
                }
                let mut from = operands(self, &[*x, *y]);
                from.insert(0, which);
                let text = "vsel.f32 {d}, {0}, {1}, {2}".to_owned();
                self.compute(text, Slot::Arithmetic, from, Mask::None)
            }
            Kind::Reduce(f, of) => self.reduced(*f, *of),
        }
    }

    /// A reduction of a short row: each vector's, then these together.
    fn reduced(&mut self, f: Reduce, of: Id) -> Operand {
        let (across, between) = reduction(f);
        let mut all: Option<Operand> = None;
        for copy in 0..self.copies {
            let operand = self.operand(of, copy);
            let text = format!("{across} {{d}}, {{0}}");
            let next = self.compute(text, Slot::Reduce, vec![operand], self.mask(copy));
            all = Some(match all {
                None => next,
                Some(before) => {
                    let text = format!("{between} {{d}}, {{0}}, {{1}}");
                    self.compute(text, Slot::Arithmetic, vec![before, next], Mask::None)
                }
            });
        }
        all.unwrap_or(Operand::Fixed("v0".to_owned()))
    }

    /// Takes a row's value into its accumulators.
    pub fn accumulate(&mut self, f: Reduce, of: Id, copy: usize, accumulators: Vec<String>) {
        let operand = self.operand(of, copy);
        self.body.ops.push(Op {
            text: format!("{} {{a}}, {{a}}, {{0}}", reduction(f).1),
            slot: Slot::Arithmetic,
            result: None,
            operands: vec![operand],
            accumulators,
            place: None,
            mask: Mask::LastIteration,
        });
    }

    /// Stores every copy of a value.
    fn store(&mut self, id: Id, pointer: usize, offset: u64, copies: usize, mask: Option<Mask>) {
        for copy in 0..copies {
            let operand = self.operand(id, copy);
            self.body.ops.push(Op {
                text: "vst.f32 {0}, {m}".to_owned(),
                slot: Slot::Store,
                result: None,
                operands: vec![operand],
                accumulators: Vec::new(),
                place: Some(Place {
                    pointer,
                    offset: (offset + copy as u64 * self.apart) as i64,
                }),
                mask: mask.unwrap_or(self.mask(copy)),
            });
        }
    }

    /// Stores an output.
    pub fn output(&mut self, output: usize) {
        let (id, offset) = (self.graph.outputs[output], self.layout.outputs[output]);
        match self.program.outputs[output].spread {
            Spread::PerRow => self.store(id, PER_ROW, offset, 1, Some(Mask::Always(ONE))),
            _ => self.store(id, SLOT, offset, self.copies, None),
        }
    }

    /// Keeps a value for a later pass.
    pub fn keep(&mut self, id: Id) {
        let offset = kept(self.layout, id);
        self.store(id, FIXED, offset, self.copies, None);
    }

    /// Reads what an earlier pass kept.
    pub fn read(&mut self, id: Id) {
        let offset = kept(self.layout, id);
        for copy in 0..self.copies {
            let aside = copy as u64 * self.apart;
            let operand = self.load("vld.f32", FIXED, offset + aside, self.mask(copy));
            self.made.insert((id, copy), operand);
        }
    }
}

/// Offset of a constant in the pool.
pub fn constant(layout: &Layout, bits: u32) -> u64 {
    let found = layout.constants.iter().find(|(b, _)| *b == bits);
    found.map_or(0, |(_, at)| *at)
}

fn kept(layout: &Layout, id: Id) -> u64 {
    let found = layout.kept.iter().find(|(i, _)| *i == id);
    found.map_or(0, |(_, at)| *at)
}
