//! A row-wise program in instructions: every function spelled out, equal values merged, dead ones dropped.
//!
//! Models: nodes that are one vector instruction each (a choice is two: compare and select), their spreads, and their levels: how
//! many reductions come one after the other before a value. The level is the pass over a row in which a value can be made. Leaves
//! out: registers and memory. Invariant: a node's operands come before it; every node is needed by an output.
//!
//! The error function is tanh of a polynomial: erf(x / sqrt 2) = tanh(x P(x^2)), the form in which GELU by tanh approximates it with a P of
//! degree 1; here P is of degree 6, [`ERF`], fitted by reweighted least squares to the least absolute error of the result for |x| <= 5.7.
//! The error is below 6e-8 with these FP32 coefficients before FP32 arithmetic, and beyond 5.7 x P(x^2) grows, so that the result stays 1.

use super::pipeline::Slot;
use super::{Binary, Compare, Reduce, Rowwise, Spread, Step, StepId, Ternary, Unary};
use crate::num::Dtype;
use rustc_hash::FxHashMap;

/// P's coefficients from x^0 up: erf(x / sqrt 2) = tanh(x P(x^2)).
pub const ERF: [f32; 7] = [
    0.797_884_94,
    0.036_333_084,
    -3.259_473_7e-5,
    -5.530_632e-5,
    3.964_774e-6,
    -1.322_663_4e-7,
    1.756_279_1e-9,
];

/// A node by its place.
pub type Id = usize;

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// By index in [`Rowwise::inputs`].
    Input(usize),
    /// FP32 bits.
    Const(u32),
    /// One instruction, as [`super::pipeline::Op::text`].
    Vector(&'static str, Slot, Vec<Id>),
    /// To a type.
    Narrow(Dtype, Id),
    /// To a type that holds the infinities of what is past its largest number.
    Ieee(Dtype, Id),
    /// Back to FP32 from a type.
    Widen(Dtype, Id),
    /// x if a cc b, else y.
    Choose(&'static str, [Id; 4]),
    Reduce(Reduce, Id),
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    pub kind: Kind,
    pub spread: Spread,
    /// Reductions in sequence before it.
    pub level: usize,
}

impl Node {
    /// Nodes that it reads.
    pub fn operands(&self) -> &[Id] {
        match &self.kind {
            Kind::Input(_) | Kind::Const(_) => &[],
            Kind::Vector(_, _, ids) => ids,
            Kind::Narrow(_, id) | Kind::Ieee(_, id) | Kind::Widen(_, id) | Kind::Reduce(_, id) => {
                std::slice::from_ref(id)
            }
            Kind::Choose(_, ids) => ids,
        }
    }

    /// Whether it is made once per row, or once for all.
    pub fn uniform(&self) -> bool {
        !self.spread.varies().1
    }
}

/// A program as nodes.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub nodes: Vec<Node>,
    /// The node of every output.
    pub outputs: Vec<Id>,
    /// Number of passes over a row: the largest level of what passes make, and one.
    pub passes: usize,
}

impl Graph {
    /// The nodes of a valid program.
    pub fn new(program: &Rowwise) -> Graph {
        let mut build = Builder {
            program,
            nodes: Vec::new(),
            known: FxHashMap::default(),
        };
        let mut of: Vec<Id> = Vec::with_capacity(program.steps.len());
        for step in &program.steps {
            let id = build.step(step, &of);
            of.push(id);
        }
        let outputs: Vec<Id> = program.outputs.iter().map(|o| of[o.step.index()]).collect();
        live(build.nodes, outputs, program)
    }
}

impl Graph {
    /// The least work of an element: special functions, and other operations that take an arithmetic slot; each value made once.
    pub fn work(&self) -> (u64, u64) {
        let full = self.nodes.iter().filter(|n| n.spread == Spread::Full);
        let reduced = self
            .nodes
            .iter()
            .filter(|n| matches!(n.kind, Kind::Reduce(..)));
        let (mut special, mut slots) = (0, reduced.count() as u64);
        for node in full {
            match node.kind {
                Kind::Vector(_, Slot::Special, _) => special += 1,
                Kind::Input(_) | Kind::Const(_) => {}
                Kind::Choose(..) => slots += 2,
                _ => slots += 1,
            }
        }
        (special, slots)
    }
}

/// The graph without what no output needs.
fn live(nodes: Vec<Node>, outputs: Vec<Id>, program: &Rowwise) -> Graph {
    let mut needed = vec![false; nodes.len()];
    for id in &outputs {
        needed[*id] = true;
    }
    for id in (0..nodes.len()).rev() {
        if needed[id] {
            for operand in nodes[id].operands() {
                needed[*operand] = true;
            }
        }
    }
    let mut place = vec![0; nodes.len()];
    let mut kept: Vec<Node> = Vec::new();
    for (id, mut node) in nodes.into_iter().enumerate() {
        if !needed[id] {
            continue;
        }
        match &mut node.kind {
            Kind::Input(_) | Kind::Const(_) => {}
            Kind::Vector(_, _, ids) => ids.iter_mut().for_each(|i| *i = place[*i]),
            Kind::Narrow(_, i) | Kind::Ieee(_, i) | Kind::Widen(_, i) | Kind::Reduce(_, i) => {
                *i = place[*i]
            }
            Kind::Choose(_, ids) => ids.iter_mut().for_each(|i| *i = place[*i]),
        }
        place[id] = kept.len();
        kept.push(node);
    }
    let outputs: Vec<Id> = outputs.into_iter().map(|o| place[o]).collect();
    let reductions = kept.iter().filter(|n| matches!(n.kind, Kind::Reduce(..)));
    let reduced = reductions.map(|n| n.level).max().unwrap_or(0);
    let full = program.outputs.iter().zip(&outputs);
    let full = full.filter(|(o, _)| o.spread == Spread::Full);
    let stored = full.map(|(_, id)| kept[*id].level + 1).max().unwrap_or(0);
    Graph {
        nodes: kept,
        outputs,
        passes: reduced.max(stored),
    }
}

struct Builder<'a> {
    program: &'a Rowwise,
    nodes: Vec<Node>,
    known: FxHashMap<Kind, Id>,
}

impl Builder<'_> {
    fn add(&mut self, kind: Kind) -> Id {
        if let Some(id) = self.known.get(&kind) {
            return *id;
        }
        let mut node = Node {
            kind: kind.clone(),
            spread: Spread::Scalar,
            level: 0,
        };
        for id in node.operands().to_vec() {
            node.spread = node.spread.join(self.nodes[id].spread);
            node.level = node.level.max(self.nodes[id].level);
        }
        match kind {
            Kind::Input(i) => node.spread = self.program.inputs[i].spread,
            Kind::Reduce(..) => {
                node.spread = Spread::PerRow;
                node.level += 1;
            }
            _ => {}
        }
        self.nodes.push(node);
        self.known.insert(kind, self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    fn number(&mut self, value: f32) -> Id {
        self.add(Kind::Const(value.to_bits()))
    }

    fn vector(&mut self, text: &'static str, ids: &[Id]) -> Id {
        self.add(Kind::Vector(text, Slot::Arithmetic, ids.to_vec()))
    }

    fn special(&mut self, text: &'static str, id: Id) -> Id {
        self.add(Kind::Vector(text, Slot::Special, vec![id]))
    }

    fn mul(&mut self, a: Id, b: Id) -> Id {
        self.vector("vmul.f32 {d}, {0}, {1}", &[a, b])
    }

    fn scaled(&mut self, a: Id, by: f32) -> Id {
        let by = self.number(by);
        self.mul(a, by)
    }

    fn fma(&mut self, a: Id, b: Id, c: Id) -> Id {
        self.vector("vfma.f32 {d}, {0}, {1}, {2}", &[a, b, c])
    }

    fn abs(&mut self, a: Id) -> Id {
        self.vector("vabs.f32 {d}, {0}", &[a])
    }

    fn max(&mut self, a: Id, b: Id) -> Id {
        self.vector("vmax.f32 {d}, {0}, {1}", &[a, b])
    }

    fn rcp(&mut self, a: Id) -> Id {
        self.special("vrcp.f32 {d}, {0}", a)
    }

    fn exp2(&mut self, a: Id) -> Id {
        self.special("vexp2.f32 {d}, {0}", a)
    }

    fn choose(&mut self, cc: &'static str, a: Id, b: Id, x: Id, y: Id) -> Id {
        self.add(Kind::Choose(cc, [a, b, x, y]))
    }

    fn step(&mut self, step: &Step, of: &[Id]) -> Id {
        let at = |id: StepId| of[id.index()];
        match *step {
            Step::Input(i) => self.add(Kind::Input(i)),
            Step::Const(value) => self.number(value),
            Step::Unary(f, a) => {
                let whole = matches!(f, Unary::Round | Unary::Floor);
                let a = match self.division(a).filter(|_| whole) {
                    Some((x, y)) => self.quotient(at(x), at(y)),
                    None => at(a),
                };
                self.unary(f, a)
            }
            Step::Binary(f, a, b) => self.binary(f, at(a), at(b)),
            Step::Ternary(Ternary::Fma, a, b, c) => self.fma(at(a), at(b), at(c)),
            Step::Ternary(Ternary::Select, c, x, y) => {
                // A comparison that only chooses is one with the choice.
                match self.program.steps[c.index()] {
                    Step::Binary(Binary::Compare(cc), a, b) => {
                        self.choose(code(cc), at(a), at(b), at(x), at(y))
                    }
                    _ => {
                        let zero = self.number(0.0);
                        self.choose("ne", at(c), zero, at(x), at(y))
                    }
                }
            }
            Step::Reduce(f, a) => self.add(Kind::Reduce(f, at(a))),
        }
    }

    /// Dividend and divisor of a quotient in FP32.
    fn division(&self, step: StepId) -> Option<(StepId, StepId)> {
        match self.program.steps[step.index()] {
            Step::Binary(Binary::Div, x, y) => Some((x, y)),
            Step::Unary(Unary::Cast(Dtype::F32), inner) => self.division(inner),
            _ => None,
        }
    }

    /// a / b as IEEE rounds it, but for quotients within 2^-22 units of a midpoint: what is left of `a` corrects the product with the
    /// reciprocal. For those that become whole numbers, where a unit more or less can make one of the whole. Where the correction is
    /// no number (a quotient by zero, infinities), the product stays.
    fn quotient(&mut self, a: Id, b: Id) -> Id {
        let by = self.rcp(b);
        let plain = self.mul(a, by);
        let minus = self.vector("vneg.f32 {d}, {0}", &[b]);
        let left = self.fma(plain, minus, a);
        let exact = self.fma(left, by, plain);
        self.choose("eq", exact, exact, exact, plain)
    }

    fn binary(&mut self, f: Binary, a: Id, b: Id) -> Id {
        match f {
            Binary::Add => self.vector("vadd.f32 {d}, {0}, {1}", &[a, b]),
            Binary::Sub => self.vector("vsub.f32 {d}, {0}, {1}", &[a, b]),
            Binary::Mul => self.mul(a, b),
            Binary::Div => {
                let by = self.rcp(b);
                self.mul(a, by)
            }
            Binary::Max => self.max(a, b),
            Binary::Min => self.vector("vmin.f32 {d}, {0}, {1}", &[a, b]),
            Binary::Compare(cc) => {
                let (one, zero) = (self.number(1.0), self.number(0.0));
                self.choose(code(cc), a, b, one, zero)
            }
        }
    }

    fn unary(&mut self, f: Unary, a: Id) -> Id {
        use std::f32::consts::{LN_2, LOG2_E};
        match f {
            Unary::Neg => self.vector("vneg.f32 {d}, {0}", &[a]),
            Unary::Abs => self.abs(a),
            Unary::Sqrt => {
                let r = self.special("vrsqrt.f32 {d}, {0}", a);
                self.rcp(r)
            }
            Unary::Rsqrt => self.special("vrsqrt.f32 {d}, {0}", a),
            Unary::Recip => self.rcp(a),
            Unary::Exp => {
                let a = self.scaled(a, LOG2_E);
                self.exp2(a)
            }
            Unary::Exp2 => self.exp2(a),
            Unary::Log => {
                let log = self.special("vlog2.f32 {d}, {0}", a);
                self.scaled(log, LN_2)
            }
            Unary::Log2 => self.special("vlog2.f32 {d}, {0}", a),
            Unary::Tanh => self.special("vtanh.f32 {d}, {0}", a),
            Unary::Sigmoid => self.sigmoid(a),
            Unary::Swish => {
                let s = self.sigmoid(a);
                self.mul(a, s)
            }
            Unary::Erf => self.erf(a, std::f64::consts::SQRT_2),
            Unary::Gelu => {
                let t = self.erf(a, 1.0);
                let h = self.scaled(a, 0.5);
                self.fma(h, t, h)
            }
            Unary::GeluTanh => {
                // u = sqrt(2/pi) x + sqrt(2/pi) 0.044715 x^3, y = h tanh u + h with h = x / 2.
                let c = (2.0 / std::f64::consts::PI).sqrt();
                let square = self.mul(a, a);
                let (c0, c1) = (self.number(c as f32), self.number((c * 0.044_715) as f32));
                let inner = self.fma(square, c1, c0);
                let u = self.mul(a, inner);
                let t = self.special("vtanh.f32 {d}, {0}", u);
                let h = self.scaled(a, 0.5);
                self.fma(h, t, h)
            }
            Unary::Relu => {
                let zero = self.number(0.0);
                self.max(a, zero)
            }
            Unary::Round => self.round(a),
            Unary::Floor => {
                let r = self.round(a);
                let (one, zero) = (self.number(1.0), self.number(0.0));
                let above = self.choose("gt", r, a, one, zero);
                self.vector("vsub.f32 {d}, {0}, {1}", &[r, above])
            }
            Unary::Cast(Dtype::F32) | Unary::Ieee(Dtype::F32) => a,
            Unary::Ieee(dtype) => {
                let narrow = self.add(Kind::Ieee(dtype, a));
                self.add(Kind::Widen(dtype, narrow))
            }
            Unary::Cast(dtype) => {
                let narrow = self.add(Kind::Narrow(dtype, a));
                self.add(Kind::Widen(dtype, narrow))
            }
        }
    }

    fn sigmoid(&mut self, a: Id) -> Id {
        let a = self.scaled(a, -std::f32::consts::LOG2_E);
        let (e, one) = (self.exp2(a), self.number(1.0));
        let sum = self.vector("vadd.f32 {d}, {0}, {1}", &[e, one]);
        self.rcp(sum)
    }

    /// erf(x scale / sqrt 2).
    fn erf(&mut self, a: Id, scale: f64) -> Id {
        let square = self.mul(a, a);
        // Coefficients of the scaled variable: odd powers of the scale.
        let of = |i: usize| (f64::from(ERF[i]) * scale.powi(2 * i as i32 + 1)) as f32;
        let mut sum = self.number(of(ERF.len() - 1));
        for i in (0..ERF.len() - 1).rev() {
            let c = self.number(of(i));
            sum = self.fma(sum, square, c);
        }
        let u = self.mul(a, sum);
        self.special("vtanh.f32 {d}, {0}", u)
    }

    /// To an integer by way of i32; from 2^23 on numbers are integers.
    fn round(&mut self, a: Id) -> Id {
        let narrow = self.add(Kind::Narrow(Dtype::I32, a));
        let rounded = self.add(Kind::Widen(Dtype::I32, narrow));
        let (m, limit) = (self.abs(a), self.number((1u32 << 23) as f32));
        self.choose("lt", m, limit, rounded, a)
    }
}

/// The comparison in the name of an instruction.
fn code(cc: Compare) -> &'static str {
    match cc {
        Compare::Eq => "eq",
        Compare::Ne => "ne",
        Compare::Lt => "lt",
        Compare::Le => "le",
        Compare::Gt => "gt",
        Compare::Ge => "ge",
    }
}
