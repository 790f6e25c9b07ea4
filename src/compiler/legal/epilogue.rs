//! What follows a product element by element, before it is stored.
//!
//! | matches | gives | why it is equal |
//! |---|---|---|
//! | a product of many rows that one row-wise program alone reads, and steps of it that make one matrix of the sums, numbers per row and per column and single ones: all of the program, or all that it wants of the product, rounded to fewer bits | [`Op::Epilogue`], and what is left of the program | the same steps in the same order; the cast is what storing and loading do |
//! | the same with matrices of the product's shape beside the sums: a residual, the other one of gate and up | as above | as above |
//!
//! Scales of FP8, biases, activations, residuals and roundings come out of it: the sums do not cross the HBM in FP32, and the kernel runs
//! while the tensor unit is at the next pass. Operands that are matrices come second, when every product has what costs it nothing, so that
//! what they read is narrow. Reductions along a row stay row-wise: a tile has some columns of it only.
//!
//! Leaves out: products with scales of blocks, whose programs stay stages of their own; products of few rows, whose sums row-wise programs add up from their parts ([`crate::compiler::linear`]); batches. Chosen by predicted
//! cycles: of the product, of the program, and of what they become. Exact.

use super::fuse::{free, live, moved, used};
use super::siblings::root;
use super::{LegalError, rewrite};
use crate::chip::Chip;
use crate::compiler::chain::{sites::READY, steps::product_at};
use crate::compiler::epilogue::{Epilogue, fused::Fused};
use crate::compiler::graph::{Graph, Kind, Node, Op, Value, ValueId, made_by};
use crate::compiler::linear::MAX_ROWS;
use crate::compiler::rowwise::{
    MAX_STEPS, MAX_TENSORS, Rowwise, Spread, Step, StepId, Unary, lower,
};
use crate::compiler::{Matmul, matmul, plan};
use crate::num::Dtype;
use rustc_hash::FxHashMap;

/// The pass.
///
/// # Errors
/// A graph that is none.
pub fn epilogues(graph: &Graph, chip: &Chip) -> Result<Graph, LegalError> {
    epilogues_if(graph, chip, |before, after| after < before)
}

/// The pass with a choice of its own, given predicted cycles without and with the change.
///
/// # Errors
/// As [`epilogues`].
pub fn epilogues_if(
    graph: &Graph,
    chip: &Chip,
    choose: fn(u64, u64) -> bool,
) -> Result<Graph, LegalError> {
    let mut graph = graph.clone();
    let mut costs = Costs::new(chip, choose);
    for matrices in [false, true] {
        let mut at = 0;
        while at < graph.nodes.len() {
            match end(&mut graph, at, matrices, &mut costs) {
                // The program is where it was, or what ended the product is.
                true => at = at.saturating_sub(1),
                false => at += 1,
            }
        }
    }
    let mut none = super::Folded::new();
    rewrite::rewrite(&graph, "epilogue", &mut none, |_, _, _, _| Ok(None))
}

/// Predicted cycles, by what they are of.
struct Costs {
    /// A chip with what stages have at least, where products of many rows are most of the work: nine tenths of the SRAM less what the chain keeps.
    chip: Chip,
    /// With what they have where they are not.
    least: Chip,
    choose: fn(u64, u64) -> bool,
    known: FxHashMap<String, Option<u64>>,
}

impl Costs {
    fn new(chip: &Chip, choose: fn(u64, u64) -> bool) -> Costs {
        let with = |percent: u64| {
            let mut chip = chip.clone();
            chip.tsram.size_bytes = chip.tsram.size_bytes * percent / 100;
            // Those of stages, of the ring and of a stage's end.
            let taken = READY as u32 + 8;
            chip.semaphores.count = chip.semaphores.count.saturating_sub(taken);
            chip
        };
        Costs {
            chip: with(88),
            least: with(30),
            choose,
            known: FxHashMap::default(),
        }
    }

    fn keep(&mut self, key: String, cycles: impl FnOnce() -> Option<u64>) -> Option<u64> {
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let cycles = cycles();
        self.known.insert(key, cycles);
        cycles
    }

    fn program(&mut self, op: &Rowwise) -> Option<u64> {
        let chip = self.chip.clone();
        self.keep(format!("{op:?}"), || {
            Some(lower(op, &chip).ok()?.plan.predicted_cycles)
        })
    }

    /// A product as its stage has it.
    fn product(&mut self, op: &Matmul) -> Option<u64> {
        let chip = self.chip.clone();
        self.keep(format!("{op:?}"), || matmul::predicted(op, &chip))
    }

    /// A product that ends so.
    fn ended(&mut self, op: &Matmul, program: &Rowwise) -> Option<u64> {
        let (chip, least) = (self.chip.clone(), self.least.clone());
        self.keep(format!("{op:?} {program:?}"), || {
            let end = |chip| Fused::new(program, chip).ok().map(Epilogue::fused);
            plan::search_with(op, &end(&least)?, &least).ok()?;
            Some(plan::search_with(op, &end(&chip)?, &chip).ok()?.cycles)
        })
    }
}

/// A product, and what follows its sums so far.
struct Product {
    node: usize,
    op: Matmul,
    /// First operand: the sums. Its result has the product's type.
    program: Rowwise,
    plain: bool,
}

impl Product {
    /// The product at a node, if it is one of many rows.
    fn at(graph: &Graph, node: usize) -> Option<Product> {
        let it = &graph.nodes[node];
        let flat = |i: usize| graph[it.inputs[i]].shape.len() == 2;
        let program = match &it.op {
            // Scales of blocks are not among an epilogue's operands.
            Op::Matmul(_) if it.inputs.len() == 2 && flat(0) && flat(1) => None,
            Op::Epilogue(program) => Some(program.clone()),
            _ => return None,
        };
        let op = product_at(graph, it)?.ok()?;
        let plain = program.is_none();
        let program = program.unwrap_or_else(|| {
            let mut program = Rowwise::new(op.m, op.n);
            let sums = program.input("x0", Dtype::F32, Spread::Full);
            program.output("C", op.out, sums, Spread::Full);
            program
        });
        (op.m > MAX_ROWS).then_some(Product {
            node,
            op,
            program,
            plain,
        })
    }

    fn cycles(&self, costs: &mut Costs) -> Option<u64> {
        match self.plain {
            true => costs.product(&self.op),
            false => costs.ended(&sums_of(self.op), &self.program),
        }
    }
}

/// The product with its sums as they are.
fn sums_of(op: Matmul) -> Matmul {
    Matmul {
        out: Dtype::F32,
        ..op
    }
}

/// Moves steps of the program at `at` to a product that it reads, if that is faster; whether it did.
fn end(graph: &mut Graph, at: usize, matrices: bool, costs: &mut Costs) -> bool {
    let Op::Rowwise(_) = &graph.nodes[at].op else {
        return false;
    };
    let of = made_by(graph);
    let inputs = graph.nodes[at].inputs.clone();
    let roots: Vec<ValueId> = inputs.iter().map(|id| root(graph, &of, *id)).collect();
    let mut tried: Vec<ValueId> = Vec::new();
    for id in &roots {
        if tried.contains(id) {
            continue;
        }
        tried.push(*id);
        let Some(made) = of[id.0 as usize].and_then(|node| Product::at(graph, node)) else {
            continue;
        };
        if !only_read_by(graph, &of, *id, at) {
            continue;
        }
        let pair = Pair {
            graph,
            of: &of,
            at,
            roots: &roots,
            sums: *id,
            product: &made,
        };
        let Some((whole, cuts)) = pair.cuts(matrices) else {
            continue;
        };
        for cut in cuts {
            if let Some(change) = pair.change(&whole, cut)
                && pair.better(&whole, &change, costs)
            {
                let product = made.node;
                change.apply(graph, at, product);
                return true;
            }
        }
    }
    false
}

/// Whether a node alone reads a value, itself or as a whole in another shape.
fn only_read_by(graph: &Graph, of: &[Option<usize>], id: ValueId, at: usize) -> bool {
    let mut open = vec![id];
    while let Some(value) = open.pop() {
        if graph[value].kind != Kind::Intermediate {
            return false;
        }
        for (index, node) in graph.nodes.iter().enumerate() {
            if index == at || !node.inputs.contains(&value) {
                continue;
            }
            match &node.op {
                Op::Layout(_) if root(graph, of, node.outputs[0]) == id => {
                    open.push(node.outputs[0]);
                }
                _ => return false,
            }
        }
    }
    true
}

/// A product and the row-wise program that alone reads it.
struct Pair<'a> {
    graph: &'a Graph,
    of: &'a [Option<usize>],
    at: usize,
    /// What the program's operands are the whole of.
    roots: &'a [ValueId],
    sums: ValueId,
    product: &'a Product,
}

/// The node that takes a product's place, and what is left of the program.
struct Change {
    ended: (Rowwise, Vec<ValueId>),
    /// Of the product with its end.
    result: Value,
    /// The result of the program that this is, if it is one.
    known: Option<usize>,
    left: Option<(Rowwise, Vec<ValueId>, Vec<ValueId>)>,
}

impl Pair<'_> {
    /// The program in the product's rows and columns, and the steps that may be the last of the product's, best first.
    fn cuts(&self, matrices: bool) -> Option<(Rowwise, Vec<StepId>)> {
        let Op::Rowwise(op) = &self.graph.nodes[self.at].op else {
            return None;
        };
        let (m, n) = (self.product.op.m, self.product.op.n);
        let mut op = op.clone();
        if (op.rows, op.cols) != (m, n) {
            let same = op.rows.checked_mul(op.cols) == Some(m * n);
            // Other operands may lie with gaps between these rows.
            if !same || !free(&op) || self.roots.iter().any(|id| *id != self.sums) {
                return None;
            }
            (op.rows, op.cols) = (m, n);
        }
        // A result that the program goes on with is the step that is rounded as it is.
        for o in &mut op.outputs {
            let cast = Step::Unary(Unary::Cast(o.dtype), o.step);
            if let Some(at) = op.steps.iter().position(|step| *step == cast) {
                o.step = StepId(at as u32);
            }
        }
        let is_sums = |i: usize| self.roots[i] == self.sums;
        let mut full = op.inputs.iter().enumerate();
        if full.any(|(i, input)| is_sums(i) && input.spread != Spread::Full) {
            return None;
        }
        let spreads = op.spreads();
        // Which steps need the sums, and which need nothing that a product does not have.
        let (mut needs, mut fits) = (Vec::new(), Vec::new());
        for step in &op.steps {
            let (need, fit) = match step {
                Step::Input(i) if is_sums(*i) => (true, true),
                Step::Input(i) => (false, matrices || op.inputs[*i].spread != Spread::Full),
                Step::Reduce(..) => (true, false),
                _ => (false, true),
            };
            let mut operands = step.operands();
            let (needed, fitting): (Vec<bool>, Vec<bool>) = operands
                .by_ref()
                .map(|o| (needs[o.index()], fits[o.index()]))
                .unzip();
            needs.push(need || needed.contains(&true));
            fits.push(fit && !fitting.contains(&false));
        }
        let whole = match &op.outputs[..] {
            [o] if o.spread == Spread::Full => Some(o.step),
            _ => None,
        };
        let good = |step: StepId| {
            let i = step.index();
            needs[i] && fits[i] && spreads[i] == Spread::Full
        };
        let cast = |step: &StepId| match op.steps[step.index()] {
            Step::Unary(Unary::Cast(to), _) => {
                to.bits() < 32 && to.bits().is_multiple_of(8) && self.all_through(&op, *step)
            }
            _ => false,
        };
        let casts = (0..op.steps.len() as u32).rev().map(StepId);
        let casts = casts.filter(|step| good(*step) && Some(*step) != whole);
        let casts: Vec<StepId> = casts.filter(cast).collect();
        let whole = whole.filter(|step| good(*step));
        Some((op, whole.into_iter().chain(casts).collect()))
    }

    /// Whether what the program makes of the sums it makes of this step.
    fn all_through(&self, op: &Rowwise, cut: StepId) -> bool {
        let mut without: Vec<bool> = Vec::with_capacity(op.steps.len());
        for (index, step) in op.steps.iter().enumerate() {
            let own = matches!(step, Step::Input(i) if self.roots[*i] == self.sums);
            let reads = step.operands().any(|o| without[o.index()]);
            without.push((own || reads) && index != cut.index());
        }
        !op.outputs.iter().any(|o| without[o.step.index()])
    }

    /// The pair with the steps up to `cut` as the product's.
    fn change(&self, op: &Rowwise, cut: StepId) -> Option<Change> {
        let node = &self.graph.nodes[self.at];
        let whole = op.outputs.len() == 1 && op.outputs[0].step == cut;
        let dtype = match (whole, op.steps[cut.index()]) {
            (true, _) => op.outputs[0].dtype,
            (false, Step::Unary(Unary::Cast(to), _)) => to,
            _ => return None,
        };
        // What the product does already, its rounding, then the steps.
        let mut ended = self.product.program.clone();
        let product = &self.graph.nodes[self.product.node];
        let mut operands = product.inputs.clone();
        let out = ended.outputs.pop()?;
        let sums = match (out.dtype, ended.steps[out.step.index()]) {
            (Dtype::F32, _) => out.step,
            (to, Step::Unary(Unary::Cast(already), _)) if already == to => out.step,
            (to, _) => ended.unary(Unary::Cast(to), out.step),
        };
        let mut known: FxHashMap<(ValueId, Spread), StepId> = FxHashMap::default();
        for (index, step) in ended.steps.iter().enumerate() {
            if let Step::Input(i) = step
                && *i > 0
            {
                let id = root(self.graph, self.of, operands[1 + i]);
                known.insert((id, ended.inputs[*i].spread), StepId(index as u32));
            }
        }
        let mut wanted = vec![false; op.steps.len()];
        wanted[cut.index()] = true;
        for index in (0..=cut.index()).rev() {
            if wanted[index] {
                let mut operands = op.steps[index].operands();
                operands.by_ref().for_each(|o| wanted[o.index()] = true);
            }
        }
        let mut to: Vec<StepId> = Vec::with_capacity(op.steps.len());
        for (index, step) in op.steps[..=cut.index()].iter().enumerate() {
            let step = match step {
                _ if !wanted[index] => StepId(0),
                Step::Input(i) if self.roots[*i] == self.sums => sums,
                Step::Input(i) => {
                    let input = &op.inputs[*i];
                    let key = (self.roots[*i], input.spread);
                    match known.get(&key) {
                        Some(step) => *step,
                        None => {
                            let name = format!("x{}", ended.inputs.len());
                            let step = ended.input(&name, input.dtype, input.spread);
                            operands.push(node.inputs[*i]);
                            known.insert(key, step);
                            step
                        }
                    }
                }
                _ => ended.step(moved(step, &to)),
            };
            to.push(step);
        }
        ended.output("C", dtype, to[cut.index()], Spread::Full);
        let mut ended = live(ended);
        ended.outputs[0].name = "C".to_owned();
        if ended.inputs.len() > MAX_TENSORS || ended.steps.len() > MAX_STEPS {
            return None;
        }
        let same = |o: &crate::compiler::rowwise::Output| {
            o.step == cut && o.dtype == dtype && o.spread == Spread::Full
        };
        let known = op.outputs.iter().position(same);
        let result = match known {
            Some(o) => self.graph[node.outputs[o]].clone(),
            None => Value {
                name: format!(
                    "%{}.ended",
                    self.graph[self.sums].name.trim_start_matches('%')
                ),
                dtype,
                shape: vec![op.rows, op.cols],
                kind: Kind::Intermediate,
            },
        };
        let left = match whole {
            true => None,
            false => Some(self.left(op, cut, dtype, known)?),
        };
        Some(Change {
            ended: (ended, operands),
            result,
            known,
            left,
        })
    }

    /// The program without the steps before `cut`, which it reads in the place of the sums; its operands and results. The operand of the
    /// cut is the last one's place holder: the sums' id.
    fn left(
        &self,
        op: &Rowwise,
        cut: StepId,
        dtype: Dtype,
        known: Option<usize>,
    ) -> Option<(Rowwise, Vec<ValueId>, Vec<ValueId>)> {
        let node = &self.graph.nodes[self.at];
        let mut left = op.clone();
        let name = format!("x{}", left.inputs.len());
        left.inputs.push(crate::compiler::rowwise::Input {
            name,
            dtype,
            spread: Spread::Full,
            pitch: None,
        });
        left.steps[cut.index()] = Step::Input(left.inputs.len() - 1);
        let mut results = node.outputs.clone();
        if let Some(o) = known {
            left.outputs.remove(o);
            results.remove(o);
        }
        let mut operands = node.inputs.clone();
        operands.push(self.sums);
        if left.outputs.is_empty() {
            return None;
        }
        for (o, output) in left.outputs.iter_mut().enumerate() {
            output.name = format!("y{o}");
        }
        let (left, operands) = used(live(left), operands);
        (left.inputs.len() <= MAX_TENSORS).then_some((left, operands, results))
    }

    /// Whether the change is predicted to be faster than the pair is.
    fn better(&self, op: &Rowwise, change: &Change, costs: &mut Costs) -> bool {
        let cycles = |costs: &mut Costs| {
            let before = self.product.cycles(costs)? + costs.program(op)?;
            let ended = costs.ended(&sums_of(self.product.op), &change.ended.0)?;
            let left = match &change.left {
                Some((left, ..)) => costs.program(left)?,
                None => 0,
            };
            Some((before, ended + left))
        };
        change.ended.0.validate().is_ok()
            && cycles(costs).is_some_and(|(before, after)| (costs.choose)(before, after))
    }
}

impl Change {
    /// Puts the product where the program is, in front of what is left of that.
    fn apply(self, graph: &mut Graph, at: usize, product: usize) {
        let node = graph.nodes[at].clone();
        let result = match self.known {
            Some(o) => node.outputs[o],
            None => {
                graph.values.push(self.result);
                ValueId(graph.values.len() as u32 - 1)
            }
        };
        let sums = graph.nodes[product].outputs[0];
        let place = graph.nodes[product].place.clone();
        let ended = Node {
            op: Op::Epilogue(self.ended.0),
            inputs: self.ended.1,
            outputs: vec![result],
            place,
        };
        let left = self.left.map(|(op, mut inputs, outputs)| {
            if let Some(last) = inputs.last_mut().filter(|id| **id == sums) {
                *last = result;
            }
            Node {
                op: Op::Rowwise(op),
                inputs,
                outputs,
                place: node.place.clone(),
            }
        });
        let of = made_by(graph);
        let alias = |graph: &Graph, n: &Node| {
            matches!(n.op, Op::Layout(_)) && root(graph, &of, n.outputs[0]) == sums
        };
        let gone: Vec<bool> = graph.nodes.iter().map(|n| alias(graph, n)).collect();
        let nodes = std::mem::take(&mut graph.nodes);
        let mut new = Some(ended).into_iter().chain(left).collect::<Vec<_>>();
        for (index, node) in nodes.into_iter().enumerate() {
            if index == at {
                graph.nodes.append(&mut new);
            } else if index != product && !gone[index] {
                graph.nodes.push(node);
            }
        }
    }
}
