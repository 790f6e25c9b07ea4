//! Neighbouring row-wise programs as one.
//!
//! | matches | gives | why it is equal |
//! |---|---|---|
//! | a program that reads a result of another one, rows for rows and columns for columns, aliases between them | one program: the first one's steps, a cast to the type of what was between them, the second one's steps | the cast is what storing and loading did |
//! | the same, where one of the two sees single elements only | one program in the other one's rows and columns | single elements have no rows |
//! | the same, where one sees single elements only, and these are the other one's numbers per row (or its only number) | it computes per row (or once) | as above |
//!
//! Residual and norm, norm and quantise, SwiGLU, a bias and an activation come out of it. What others read, too, stays a result, so
//! nothing is made twice. Pairs stay apart where something between them needs the first and is needed by the second; where the
//! program would have more than [`MAX_TENSORS`] tensors or [`MAX_STEPS`] steps; where the chip does not lower it or, by prediction,
//! takes longer than for both and the way through HBM; without a chip, where it has more than [`VALUES`] values.
//!
//! Exact. A cast to FP32 takes no instruction; it says that the value is one of FP32 to what computes in more.

use super::order::Order;
use super::{LegalError, rewrite};
use crate::chip::Chip;
use crate::compiler::graph::{Graph, Kind, Node, Op, ValueId};
use crate::compiler::rowwise::{
    Input, MAX_STEPS, MAX_TENSORS, Output, Rowwise, Spread, Step, StepId, Unary, graph, lower,
};
use crate::num::Dtype;
use rustc_hash::{FxHashMap, FxHashSet};

/// Values of a program, as instructions, above which programs are not merged without a chip to ask: with more, 32 vector registers
/// seldom do.
pub const VALUES: usize = 96;

/// The pass.
///
/// # Errors
/// A graph that is none.
pub fn fuse(graph: &Graph, chip: Option<&Chip>) -> Result<Graph, LegalError> {
    let mut order = Order::of(graph.clone());
    let mut costs = Costs {
        chip,
        known: FxHashMap::default(),
    };
    let mut at = 0;
    while at < order.places() {
        match merge_into(&mut order, at, &mut costs) {
            // Somewhere before its old place, with operands that may be merged, too.
            Some(place) => at = place,
            None => at += 1,
        }
    }
    let mut none = super::Folded::new();
    rewrite::rewrite(&order.finish(), "fuse", &mut none, |_, _, _, _| Ok(None))
}

/// What programs cost, by their text.
struct Costs<'a> {
    chip: Option<&'a Chip>,
    known: FxHashMap<String, Option<u64>>,
}

impl Costs<'_> {
    /// Predicted cycles; `None` if the chip does not lower it.
    fn of(&mut self, op: &Rowwise, chip: &Chip) -> Option<u64> {
        let cycles = || Some(lower(op, chip).ok()?.plan.predicted_cycles);
        let known = &mut self.known;
        *known.entry(format!("{op:?}")).or_insert_with(cycles)
    }

    fn better(&mut self, merged: &Rowwise, parts: [&Rowwise; 2]) -> bool {
        if merged.validate().is_err() {
            return false;
        }
        let Some(chip) = self.chip else {
            return graph::Graph::new(merged).nodes.len() <= VALUES;
        };
        let apart = parts.map(|part| self.of(part, chip));
        match (self.of(merged, chip), apart) {
            (Some(one), [Some(a), Some(b)]) => {
                one <= a.saturating_add(b).saturating_add(between(chip))
            }
            (merged, _) => merged.is_some(),
        }
    }
}

/// Cycles between two programs at least: what the first stores crosses the chip before the second's load does.
fn between(chip: &Chip) -> u64 {
    2 * u64::from(chip.noc.global_cycles + chip.noc.cluster_cycles)
}

/// Merges the program at a place with one whose results it reads; gives the place of the merged one.
fn merge_into(order: &mut Order, place: usize, costs: &mut Costs<'_>) -> Option<usize> {
    let at = order.at(place)?;
    let Op::Rowwise(second) = &order.node(at).op else {
        return None;
    };
    let inputs = order.node(at).inputs.iter();
    let roots: Vec<ValueId> = inputs.map(|id| order.root(*id)).collect();
    let mut tried: Vec<usize> = Vec::new();
    for id in &roots {
        let Some(from) = order.maker(*id).filter(|from| !tried.contains(from)) else {
            continue;
        };
        tried.push(from);
        let Op::Rowwise(first) = &order.node(from).op else {
            continue;
        };
        let pair = Pair {
            order,
            roots: &roots,
            nodes: [from, at],
        };
        let Some(together) = pair.together(first, second) else {
            continue;
        };
        let Some(late) = pair.between() else {
            continue;
        };
        let Some((op, inputs, outputs)) = pair.merged(&together) else {
            continue;
        };
        if !costs.better(&op, [first, second]) {
            continue;
        }
        let dead = pair.dead(&outputs);
        let node = Node {
            op: Op::Rowwise(op),
            inputs,
            outputs,
            place: order.node(at).place.clone(),
        };
        return Some(order.replace([from, at], node, &late, &dead));
    }
    None
}

/// Two programs, the second of which reads results of the first.
struct Pair<'a> {
    order: &'a Order,
    /// What the second one's operands are aliases of.
    roots: &'a [ValueId],
    nodes: [usize; 2],
}

/// A program that sees single elements only, so that its rows and columns may be any.
pub(super) fn free(op: &Rowwise) -> bool {
    let single = |spread| matches!(spread, Spread::Full | Spread::Scalar);
    let reduces = |step: &Step| matches!(step, Step::Reduce(..));
    !op.steps.iter().any(reduces)
        && op.inputs.iter().all(|i| single(i.spread))
        && op.outputs.iter().all(|o| o.spread == Spread::Full)
}

/// A program of single elements over the rows and columns of another, where its elements are all, one per row, or one.
fn tiled(op: &Rowwise, elements: Spread, like: &Rowwise) -> Rowwise {
    let mut op = op.clone();
    (op.rows, op.cols) = (like.rows, like.cols);
    let inputs = op.inputs.iter_mut().map(|i| &mut i.spread);
    for spread in inputs.chain(op.outputs.iter_mut().map(|o| &mut o.spread)) {
        if *spread == Spread::Full {
            *spread = elements;
        }
    }
    op
}

impl Pair<'_> {
    /// The result of the first that is an operand of the second.
    fn link(&self, operand: usize) -> Option<usize> {
        let outputs = &self.order.node(self.nodes[0]).outputs;
        outputs.iter().position(|id| *id == self.roots[operand])
    }

    /// Both in the same rows and columns.
    fn together(&self, first: &Rowwise, second: &Rowwise) -> Option<[Rowwise; 2]> {
        let size = |op: &Rowwise| op.rows.checked_mul(op.cols);
        let (a, b) = (size(first)?, size(second)?);
        // How the second reads what the first makes, and what the first makes of that.
        let links = || (0..second.inputs.len()).filter_map(|i| Some((i, self.link(i)?)));
        let read = |spread| links().all(|(i, _)| second.inputs[i].spread == spread);
        let made = |spread| links().all(|(_, o)| first.outputs[o].spread == spread);
        let free = [
            free(first) && !self.pitched(0),
            free(second) && !self.pitched(1),
        ];
        let (per_row, full, one) = (Spread::PerRow, Spread::Full, Spread::Scalar);
        let both = if (first.rows, first.cols) == (second.rows, second.cols) {
            [first.clone(), second.clone()]
        } else if a == b && free[0] {
            [tiled(first, full, second), second.clone()]
        } else if a == b && free[1] {
            [first.clone(), tiled(second, full, first)]
        } else if b == first.rows && free[1] && made(per_row) {
            [first.clone(), tiled(second, per_row, first)]
        } else if a == second.rows && free[0] && read(per_row) {
            [tiled(first, per_row, second), second.clone()]
        } else if a == 1 && free[0] && read(one) && !self.first_is_needed() {
            [tiled(first, one, second), second.clone()]
        } else {
            return None;
        };
        // Over one row, or one column, spreads that differ there are the same.
        let (rows, cols) = (both[0].rows > 1, both[0].cols > 1);
        let varies = |spread: Spread| (spread.varies().0 && rows, spread.varies().1 && cols);
        let same = |(i, o): (usize, usize)| {
            varies(both[0].outputs[o].spread) == varies(both[1].inputs[i].spread)
        };
        links().all(same).then_some(both)
    }

    /// Whether a program reads or writes rows with gaps: a part of each row of something wider. Only with these rows and columns are
    /// they read and written where they lie.
    fn pitched(&self, which: usize) -> bool {
        let node = self.order.node(self.nodes[which]);
        let gaps = |id: &ValueId| {
            let maker = self.order.maker(self.order.root(*id));
            let maker = maker.map(|n| &self.order.node(n).op);
            matches!(maker, Some(Op::Layout(view)) if view.is_run().is_none())
        };
        let beside = |id: &ValueId| {
            self.order
                .any_reader(*id, |_, n| matches!(n.op, Op::Concat { axis } if axis > 0))
        };
        node.inputs.iter().any(gaps) || node.outputs.iter().any(beside)
    }

    /// Whether something beside the second needs a result of the first.
    fn first_is_needed(&self) -> bool {
        let outputs = &self.order.node(self.nodes[0]).outputs;
        outputs.iter().any(|id| self.needed(*id))
    }

    /// Which nodes between the two need the first and must therefore come behind the merged one; `None` if the second needs one of
    /// those.
    fn between(&self) -> Option<FxHashSet<usize>> {
        let [from, at] = self.nodes;
        let mut late = FxHashSet::default();
        let needs = |late: &FxHashSet<usize>, id: &ValueId| {
            let maker = self.order.maker(*id);
            maker.is_some_and(|n| n == from || late.contains(&n))
        };
        for n in self.order.between(from, at) {
            if self.order.node(n).inputs.iter().any(|id| needs(&late, id)) {
                late.insert(n);
            }
        }
        let roots = self.roots.iter().enumerate();
        let others = roots.filter(|(operand, _)| self.link(*operand).is_none());
        let blocked = others.map(|(_, id)| id).any(|id| needs(&late, id));
        (!blocked).then_some(late)
    }

    /// Whether a result of the first is needed beside the second.
    fn needed(&self, result: ValueId) -> bool {
        let aliases = self.order.aliases(result);
        let mut all = aliases.iter().chain([&result]);
        all.any(|id| self.order.graph[*id].kind == Kind::Output)
            || self.order.any_reader(result, |n, _| n != self.nodes[1])
    }

    /// The program, its operands and results.
    fn merged(
        &self,
        [first, second]: &[Rowwise; 2],
    ) -> Option<(Rowwise, Vec<ValueId>, Vec<ValueId>)> {
        let [a, b] = self.nodes.map(|n| self.order.node(n));
        let mut made = Merged {
            op: Rowwise::new(first.rows, first.cols),
            operands: Vec::new(),
            known: Vec::new(),
        };
        let mut of_first: Vec<StepId> = Vec::with_capacity(first.steps.len());
        for step in &first.steps {
            let step = match step {
                Step::Input(i) => {
                    let id = a.inputs[*i];
                    made.input(self.order.root(id), id, &first.inputs[*i])
                }
                _ => made.op.step(moved(step, &of_first)),
            };
            of_first.push(step);
        }
        let mut of_second: Vec<StepId> = Vec::with_capacity(second.steps.len());
        for step in &second.steps {
            let step = match step {
                Step::Input(i) => match self.link(*i) {
                    Some(output) => {
                        let output = &first.outputs[output];
                        made.cast(of_first[output.step.index()], output.dtype)
                    }
                    None => made.input(self.roots[*i], b.inputs[*i], &second.inputs[*i]),
                },
                _ => made.op.step(moved(step, &of_second)),
            };
            of_second.push(step);
        }
        let mut outputs = Vec::new();
        for (id, output) in a.outputs.iter().zip(&first.outputs) {
            if self.needed(*id) {
                made.output(output, of_first[output.step.index()]);
                outputs.push(*id);
            }
        }
        for (id, output) in b.outputs.iter().zip(&second.outputs) {
            made.output(output, of_second[output.step.index()]);
            outputs.push(*id);
        }
        let op = live(made.op);
        let fits = op.inputs.len() <= MAX_TENSORS
            && op.outputs.len() <= MAX_TENSORS
            && op.steps.len() <= MAX_STEPS;
        // Inputs that only dead steps read are gone from the program, so from the operands.
        let (op, operands) = used(op, made.operands);
        fits.then_some((op, operands, outputs))
    }

    /// Results of the first that are gone, and their aliases.
    fn dead(&self, kept: &[ValueId]) -> Vec<ValueId> {
        let outputs = self.order.node(self.nodes[0]).outputs.iter();
        let gone = outputs.filter(|id| !kept.contains(id));
        let with = |id: &ValueId| [vec![*id], self.order.aliases(*id)].concat();
        gone.flat_map(with).collect()
    }
}

/// A program being put together.
struct Merged {
    op: Rowwise,
    operands: Vec<ValueId>,
    /// What each operand is an alias of, and the step that reads it.
    known: Vec<(ValueId, StepId)>,
}

impl Merged {
    /// The step of an operand, which is read once even if both programs read it.
    fn input(&mut self, root: ValueId, id: ValueId, input: &Input) -> StepId {
        let inputs = self.op.inputs.iter().zip(&self.known);
        let mut same = inputs.filter(|(i, (known, _))| *known == root && i.spread == input.spread);
        if let Some((_, (_, step))) = same.next() {
            return *step;
        }
        let name = format!("x{}", self.operands.len());
        let step = self.op.input(&name, input.dtype, input.spread);
        self.operands.push(id);
        self.known.push((root, step));
        step
    }

    /// A step as what storing it in a type and loading it gives, if it is finite: an infinity that is stored stays, one that is cast becomes the
    /// largest number.
    fn cast(&mut self, step: StepId, dtype: Dtype) -> StepId {
        match self.op.steps[step.index()] {
            Step::Unary(Unary::Cast(already) | Unary::Ieee(already), _) if already == dtype => step,
            Step::Input(i) if self.op.inputs[i].dtype == dtype => step,
            _ => self.op.unary(Unary::Cast(dtype), step),
        }
    }

    fn output(&mut self, output: &Output, step: StepId) {
        let name = format!("y{}", self.op.outputs.len());
        self.op.output(&name, output.dtype, step, output.spread);
    }
}

/// A step with operands at their new places.
pub(super) fn moved(step: &Step, to: &[StepId]) -> Step {
    let at = |id: StepId| to[id.index()];
    match *step {
        Step::Input(_) | Step::Const(_) => *step,
        Step::Unary(f, a) => Step::Unary(f, at(a)),
        Step::Binary(f, a, b) => Step::Binary(f, at(a), at(b)),
        Step::Ternary(f, a, b, c) => Step::Ternary(f, at(a), at(b), at(c)),
        Step::Reduce(f, a) => Step::Reduce(f, at(a)),
    }
}

/// The program without steps that no output needs.
pub(super) fn live(op: Rowwise) -> Rowwise {
    let mut needed = vec![false; op.steps.len()];
    op.outputs
        .iter()
        .for_each(|o| needed[o.step.index()] = true);
    for index in (0..op.steps.len()).rev() {
        if needed[index] {
            op.steps[index]
                .operands()
                .for_each(|id| needed[id.index()] = true);
        }
    }
    let mut place = vec![StepId(0); op.steps.len()];
    let mut steps = Vec::with_capacity(op.steps.len());
    for (index, step) in op.steps.iter().enumerate() {
        if needed[index] {
            place[index] = StepId(steps.len() as u32);
            steps.push(moved(step, &place));
        }
    }
    let mut outputs = op.outputs;
    outputs
        .iter_mut()
        .for_each(|o| o.step = place[o.step.index()]);
    Rowwise {
        steps,
        outputs,
        ..op
    }
}

/// The program without inputs that no step reads.
pub(super) fn used(op: Rowwise, operands: Vec<ValueId>) -> (Rowwise, Vec<ValueId>) {
    let mut place: Vec<Option<usize>> = vec![None; op.inputs.len()];
    let (mut inputs, mut left) = (Vec::new(), Vec::new());
    for step in &op.steps {
        if let Step::Input(i) = step {
            place[*i] = Some(0);
        }
    }
    for (at, place) in place.iter_mut().enumerate().filter(|(_, p)| p.is_some()) {
        *place = Some(inputs.len());
        let name = format!("x{}", inputs.len());
        inputs.push(Input {
            name,
            ..op.inputs[at].clone()
        });
        left.push(operands[at]);
    }
    let mut steps = op.steps;
    for step in &mut steps {
        if let Step::Input(i) = step
            && let Some(to) = place[*i]
        {
            *i = to;
        }
    }
    let op = Rowwise {
        inputs,
        steps,
        ..op
    };
    (op, left)
}
