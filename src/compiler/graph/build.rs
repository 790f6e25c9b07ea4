//! Making graphs: each step names its operands and gives the result's id; types and shapes follow.
//!
//! Models: one function for each operation, broadcasting for row-wise programs ([`Builder::rows`]), results named later.
//! Leaves out: looking for better graphs. Invariants: a node that was added passes [`Op::check`]; what [`Builder::finish`] gives
//! passes [`Graph::verify`] and has no node whose results nobody uses.

use super::op::{broadcast, sized};
use super::verify::{GraphError, Problem};
use super::{
    Attention, Data, Gather, Graph, Grouped, Kind, Matmul, Node, Op, Pad, TopK, Value, ValueId,
    View, elements,
};
use crate::compiler::rowwise::{Rowwise, Spread, StepId, Unary};
use crate::num::Dtype;
use std::sync::Arc;

/// A graph being made.
#[derive(Clone, Debug)]
pub struct Builder {
    graph: Graph,
    place: Arc<str>,
    /// Whether what is past the largest number of 16 bits is infinite.
    infinite: bool,
}

/// A result of a row-wise program: the step, its type and its spread (full or per row).
pub type RowsOutput = (StepId, Dtype, Spread);

/// How an operand of a row-wise program lies in rows and columns.
#[derive(Clone, Debug, PartialEq)]
struct Placed {
    spread: Spread,
    /// It must be expanded to this shape first.
    expand: Option<Vec<u64>>,
}

/// How an operand of shape `have` takes part in a program over `full`, of which the first `split` axes are rows.
fn placed(have: &[u64], full: &[u64], split: usize) -> Placed {
    let new = full.len() - have.len();
    let at = |i: usize| i.checked_sub(new).map_or(1, |i| have[i]);
    let ones = |range: std::ops::Range<usize>| range.clone().all(|i| at(i) == 1);
    let same = |range: std::ops::Range<usize>| range.clone().all(|i| at(i) == full[i]);
    let (rows, columns) = (0..split, split..full.len());
    let (spread, shape, fits) = if same(0..full.len()) {
        (Spread::Full, full, true)
    } else if ones(0..full.len()) {
        (Spread::Scalar, &full[..0], true)
    } else if ones(columns.clone()) {
        (Spread::PerRow, &full[..split], same(rows))
    } else if ones(rows) {
        (Spread::PerColumn, &full[split..], same(columns))
    } else {
        (Spread::Full, full, false)
    };
    // Axes on the other side keep their extent of 1, so that the operand broadcasts to the shape.
    let expand = (!fits).then(|| match spread {
        Spread::PerRow => [shape, &vec![1; full.len() - split]].concat(),
        Spread::PerColumn => [&vec![1; split], shape].concat(),
        _ => shape.to_vec(),
    });
    Placed { spread, expand }
}

/// The number of axes that are rows such that the fewest elements must be expanded; the last axis alone as columns where
/// that does not matter.
fn best_split(shapes: &[&[u64]], full: &[u64]) -> usize {
    let cost = |split: usize| -> u64 {
        let expanded = shapes.iter().filter_map(|s| placed(s, full, split).expand);
        expanded.map(|to| elements(&to)).sum()
    };
    // From the last axis outwards: the first of equals wins.
    let last = full.len().saturating_sub(1);
    let order = std::iter::once(last).chain((0..=full.len()).rev());
    order.min_by_key(|split| cost(*split)).unwrap_or(0)
}

impl Builder {
    pub fn new(name: &str) -> Builder {
        Builder {
            graph: Graph {
                name: name.to_owned(),
                ..Graph::default()
            },
            place: Arc::from(name),
            infinite: false,
        }
    }

    /// Nodes from here on stand at this place of the source.
    pub fn at(&mut self, place: &str) {
        self.place = Arc::from(place);
    }

    /// An error at the current place.
    pub fn fail(&self, problem: Problem) -> GraphError {
        GraphError {
            place: self.place.to_string(),
            problem,
        }
    }

    /// A value made so far.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.graph[id]
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.graph.nodes.len()
    }

    pub fn shape(&self, id: ValueId) -> &[u64] {
        &self.graph[id].shape
    }

    pub fn dtype(&self, id: ValueId) -> Dtype {
        self.graph[id].dtype
    }

    fn add(&mut self, value: Value) -> Result<ValueId, GraphError> {
        if sized(&value.shape).is_none() {
            let (value, shape) = (value.name, value.shape);
            return Err(self.fail(Problem::Size { value, shape }));
        }
        self.graph.values.push(value);
        Ok(ValueId(self.graph.values.len() as u32 - 1))
    }

    /// A tensor that is given for each run.
    pub fn input(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[u64],
    ) -> Result<ValueId, GraphError> {
        let id = self.add(Value {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            kind: Kind::Input,
        })?;
        self.graph.inputs.push(id);
        Ok(id)
    }

    /// A tensor that is known.
    pub fn constant(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[u64],
        data: Data,
    ) -> Result<ValueId, GraphError> {
        self.add(Value {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            kind: Kind::Constant(data),
        })
    }

    /// Numbers of a shape, as F32 constants.
    pub fn numbers(&mut self, values: &[f32], shape: &[u64]) -> Result<ValueId, GraphError> {
        let bytes: Arc<[u8]> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let name = self.fresh();
        self.constant(&name, Dtype::F32, shape, Data::Bytes(bytes))
    }

    /// A name that no source has.
    fn fresh(&self) -> String {
        format!("%{}", self.graph.values.len())
    }

    /// From here on results of row-wise programs in F16 and BF16 that are past the largest number are infinite, as in IEEE 754.
    pub fn overflow_to_infinity(&mut self) {
        self.infinite = true;
    }

    /// Names a value as the source does, unless it has a name of a source already.
    pub fn name(&mut self, id: ValueId, name: &str) {
        let value = &mut self.graph.values[id.0 as usize];
        if value.name.starts_with('%') {
            value.name = name.to_owned();
        }
    }

    /// Adds a node with results of these types and shapes.
    ///
    /// # Errors
    /// Operands and results that do not go together.
    pub fn push(
        &mut self,
        op: Op,
        inputs: &[ValueId],
        results: &[(Dtype, &[u64])],
    ) -> Result<Vec<ValueId>, GraphError> {
        let mut outputs = Vec::with_capacity(results.len());
        for (dtype, shape) in results {
            outputs.push(self.add(Value {
                name: self.fresh(),
                dtype: *dtype,
                shape: shape.to_vec(),
                kind: Kind::Intermediate,
            })?);
        }
        let operands: Vec<&Value> = self.graph.list(inputs).collect();
        let made: Vec<&Value> = self.graph.list(&outputs).collect();
        op.check(&operands, &made).map_err(|p| self.fail(p))?;
        self.graph.nodes.push(Node {
            op,
            inputs: inputs.to_vec(),
            outputs: outputs.clone(),
            place: self.place.clone(),
        });
        Ok(outputs)
    }

    fn one(
        &mut self,
        op: Op,
        inputs: &[ValueId],
        dtype: Dtype,
        shape: &[u64],
    ) -> Result<ValueId, GraphError> {
        Ok(self.push(op, inputs, &[(dtype, shape)])?[0])
    }

    /// [`Matmul`] with a result of that type.
    pub fn matmul(&mut self, a: ValueId, b: ValueId, dtype: Dtype) -> Result<ValueId, GraphError> {
        let shape = Matmul::shape(self.value(a), self.value(b)).map_err(|p| self.fail(p))?;
        let blocks = None;
        self.one(Op::Matmul(Matmul { dtype, blocks }), &[a, b], dtype, &shape)
    }

    /// [`Matmul`] with scales of B: operands A, B, scales.
    pub fn matmul_scaled(
        &mut self,
        op: Matmul,
        [a, b, scales]: [ValueId; 3],
    ) -> Result<ValueId, GraphError> {
        let shape = Matmul::shape(self.value(a), self.value(b)).map_err(|p| self.fail(p))?;
        let dtype = op.dtype;
        self.one(Op::Matmul(op), &[a, b, scales], dtype, &shape)
    }

    /// [`Attention`]; operands in its order.
    pub fn attention(&mut self, op: Attention, inputs: &[ValueId]) -> Result<ValueId, GraphError> {
        let (Some(q), Some(v)) = (inputs.first(), inputs.get(2)) else {
            return Err(self.fail(Problem::Arity {
                what: "operands",
                got: inputs.len(),
                want: op.operands(),
            }));
        };
        let shape = op.shape(self.value(*q), self.value(*v));
        let (dtype, shape) = (op.dtype, shape.map_err(|p| self.fail(p))?);
        self.one(Op::Attention(op), inputs, dtype, &shape)
    }

    /// A view; the value itself if that changes nothing.
    pub fn layout(&mut self, x: ValueId, view: View) -> Result<ValueId, GraphError> {
        if view.shape == self.shape(x) && view.is_alias(self.value(x).elements()) {
            return Ok(x);
        }
        let (dtype, shape) = (self.dtype(x), view.shape.clone());
        self.one(Op::Layout(view), &[x], dtype, &shape)
    }

    /// The same elements in another shape.
    pub fn reshape(&mut self, x: ValueId, shape: &[u64]) -> Result<ValueId, GraphError> {
        if self.value(x).elements() != elements(shape) {
            let problem = Problem::shape(self.value(x), shape);
            return Err(self.fail(problem));
        }
        self.layout(x, View::reshape(shape))
    }

    /// Axis a of the result is axis `order[a]`; `order` holds each axis once.
    pub fn transpose(&mut self, x: ValueId, order: &[usize]) -> Result<ValueId, GraphError> {
        let view = View::transpose(self.shape(x), order);
        self.layout(x, view)
    }

    /// `count` elements of an axis from `start`, each `step` further.
    pub fn slice(
        &mut self,
        x: ValueId,
        axis: usize,
        start: u64,
        step: i64,
        count: u64,
    ) -> Result<ValueId, GraphError> {
        if axis >= self.shape(x).len() {
            let problem = Problem::axis(self.value(x), axis);
            return Err(self.fail(problem));
        }
        let view = View::slice(self.shape(x), axis, start, step, count);
        self.layout(x, view)
    }

    /// Repeats axes of extent 1, and adds axes in front.
    pub fn expand(&mut self, x: ValueId, to: &[u64]) -> Result<ValueId, GraphError> {
        match View::expand(self.shape(x), to) {
            Some(view) => self.layout(x, view),
            None => {
                let problem = Problem::shape(self.value(x), to);
                Err(self.fail(problem))
            }
        }
    }

    /// Tensors one after the other along an axis.
    pub fn concat(&mut self, inputs: &[ValueId], axis: usize) -> Result<ValueId, GraphError> {
        let Some(first) = inputs.first() else {
            return Err(self.fail(Problem::Arity {
                what: "operands",
                got: 0,
                want: 1,
            }));
        };
        if inputs.len() == 1 {
            return Ok(*first);
        }
        let (dtype, mut shape) = (self.dtype(*first), self.shape(*first).to_vec());
        if let Some(extent) = shape.get_mut(axis) {
            let extents = self.graph.list(inputs).filter_map(|v| v.shape.get(axis));
            *extent = extents.fold(0, |sum: u64, d| sum.saturating_add(*d));
        }
        self.one(Op::Concat { axis }, inputs, dtype, &shape)
    }

    /// A border of `value`: for each axis elements in front and behind.
    pub fn pad(
        &mut self,
        x: ValueId,
        border: &[(u64, u64)],
        value: f32,
    ) -> Result<ValueId, GraphError> {
        if border.iter().all(|b| *b == (0, 0)) {
            return Ok(x);
        }
        let grown = self.shape(x).iter().zip(border);
        let shape: Vec<u64> = grown
            .map(|(d, (before, after))| d.saturating_add(*before).saturating_add(*after))
            .collect();
        let before = border.iter().map(|b| b.0).collect();
        let dtype = self.dtype(x);
        self.one(Op::Pad(Pad { before, value }), &[x], dtype, &shape)
    }

    /// [`Gather`].
    pub fn gather(
        &mut self,
        data: ValueId,
        indices: ValueId,
        axis: usize,
    ) -> Result<ValueId, GraphError> {
        let op = Gather { axis };
        let shape = op.shape(self.value(data), self.value(indices));
        let shape = shape.map_err(|p| self.fail(p))?;
        let dtype = self.dtype(data);
        self.one(Op::Gather(op), &[data, indices], dtype, &shape)
    }

    /// [`TopK`]: values and places.
    pub fn top_k(&mut self, x: ValueId, op: TopK) -> Result<[ValueId; 2], GraphError> {
        let shape = op.shape(self.value(x)).map_err(|p| self.fail(p))?;
        let results = [(self.dtype(x), &shape[..]), (Dtype::I32, &shape[..])];
        let made = self.push(Op::TopK(op), &[x], &results)?;
        Ok([made[0], made[1]])
    }

    /// [`Grouped`]; operands in its order.
    pub fn grouped(&mut self, op: Grouped, inputs: &[ValueId]) -> Result<ValueId, GraphError> {
        let (Some(ids), Some(w)) = (inputs.get(1), inputs.get(2)) else {
            return Err(self.fail(Problem::Arity {
                what: "operands",
                got: inputs.len(),
                want: 3,
            }));
        };
        let shape = op.shape(self.value(*ids), self.value(*w));
        let (dtype, shape) = (op.dtype, shape.map_err(|p| self.fail(p))?);
        self.one(Op::Grouped(op), inputs, dtype, &shape)
    }

    /// A row-wise program over the shape that the operands broadcast to. `split`: how many axes are rows; `None`: what suits the
    /// operands, for programs that see single elements only. `program` gets the operands as steps. Full results have the
    /// broadcast shape, those per row its first `split` axes.
    pub fn rows(
        &mut self,
        split: Option<usize>,
        inputs: &[ValueId],
        program: impl FnOnce(&mut Rowwise, &[StepId]) -> Vec<RowsOutput>,
    ) -> Result<Vec<ValueId>, GraphError> {
        let mut full: Vec<u64> = Vec::new();
        for id in inputs {
            let shape = self.shape(*id);
            let wide = broadcast(&full, shape).ok_or_else(|| Problem::Broadcast {
                a: full.clone(),
                b: shape.to_vec(),
            });
            full = wide.map_err(|p| self.fail(p))?;
        }
        let shapes: Vec<&[u64]> = inputs.iter().map(|id| self.shape(*id)).collect();
        let split = split.unwrap_or_else(|| best_split(&shapes, &full));
        let places: Vec<Placed> = shapes.iter().map(|s| placed(s, &full, split)).collect();
        let (rows, cols) = (elements(&full[..split]), elements(&full[split..]));
        let mut op = Rowwise::new(rows, cols);
        let mut operands = Vec::with_capacity(inputs.len());
        let mut steps = Vec::with_capacity(inputs.len());
        for (index, (id, place)) in inputs.iter().zip(places).enumerate() {
            let id = match &place.expand {
                Some(to) => self.expand(*id, to)?,
                None => *id,
            };
            operands.push(id);
            steps.push(op.input(&format!("x{index}"), self.dtype(id), place.spread));
        }
        let mut results = program(&mut op, &steps);
        if self.infinite {
            for (step, dtype, _) in &mut results {
                if matches!(dtype, Dtype::F16 | Dtype::Bf16) {
                    *step = op.unary(Unary::Ieee(*dtype), *step);
                }
            }
        }
        for (index, (step, dtype, spread)) in results.iter().enumerate() {
            op.output(&format!("y{index}"), *dtype, *step, *spread);
        }
        let shapes: Vec<(Dtype, &[u64])> = results
            .iter()
            .map(|(_, dtype, spread)| match spread {
                Spread::PerRow => (*dtype, &full[..split]),
                _ => (*dtype, &full[..]),
            })
            .collect();
        self.push(Op::Rowwise(op), &operands, &shapes)
    }

    /// A program over single elements with one result.
    pub fn elementwise(
        &mut self,
        inputs: &[ValueId],
        dtype: Dtype,
        program: impl FnOnce(&mut Rowwise, &[StepId]) -> StepId,
    ) -> Result<ValueId, GraphError> {
        let made = self.rows(None, inputs, |rows, steps| {
            vec![(program(rows, steps), dtype, Spread::Full)]
        })?;
        Ok(made[0])
    }

    /// The value in another type, rounded to nearest even and saturated; itself if it has the type.
    pub fn cast(&mut self, x: ValueId, dtype: Dtype) -> Result<ValueId, GraphError> {
        if self.dtype(x) == dtype {
            return Ok(x);
        }
        self.elementwise(&[x], dtype, |_, steps| steps[0])
    }

    /// Makes a value an output of that name. An input, a constant or a value that is an output already is copied.
    pub fn output(&mut self, id: ValueId, name: &str) -> Result<(), GraphError> {
        let mut id = id;
        if self.value(id).kind != Kind::Intermediate {
            let (dtype, shape) = (self.dtype(id), self.shape(id).to_vec());
            let copy = Op::Layout(View::reshape(&shape));
            id = self.one(copy, &[id], dtype, &shape)?;
        }
        let value = &mut self.graph.values[id.0 as usize];
        value.kind = Kind::Output;
        value.name = name.to_owned();
        self.graph.outputs.push(id);
        Ok(())
    }

    /// The graph, without what no output needs.
    ///
    /// # Errors
    /// An invariant that [`Graph::verify`] finds broken.
    pub fn finish(self) -> Result<Graph, GraphError> {
        let graph = prune(self.graph);
        graph.verify(None)?;
        Ok(graph)
    }
}

/// Drops nodes of which no result is used, and then constants and values that nobody mentions.
fn prune(graph: Graph) -> Graph {
    let mut used = vec![false; graph.values.len()];
    for id in graph.inputs.iter().chain(&graph.outputs) {
        used[id.0 as usize] = true;
    }
    let mut kept = Vec::with_capacity(graph.nodes.len());
    for node in graph.nodes.into_iter().rev() {
        if node.outputs.iter().any(|id| used[id.0 as usize]) {
            for id in node.inputs.iter().chain(&node.outputs) {
                used[id.0 as usize] = true;
            }
            kept.push(node);
        }
    }
    kept.reverse();
    let mut place = vec![ValueId(0); graph.values.len()];
    let mut values = Vec::with_capacity(graph.values.len());
    for (index, value) in graph.values.into_iter().enumerate() {
        if used[index] {
            place[index] = ValueId(values.len() as u32);
            values.push(value);
        }
    }
    let moved = |ids: Vec<ValueId>| ids.into_iter().map(|id| place[id.0 as usize]).collect();
    for node in &mut kept {
        node.inputs = moved(std::mem::take(&mut node.inputs));
        node.outputs = moved(std::mem::take(&mut node.outputs));
    }
    Graph {
        name: graph.name,
        values,
        nodes: kept,
        inputs: moved(graph.inputs),
        outputs: moved(graph.outputs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_find_their_place_in_rows_and_columns() {
        let full: &[u64] = &[2, 3, 4];
        let at = |have: &[u64], split| {
            let placed = placed(have, full, split);
            (placed.spread, placed.expand)
        };
        assert_eq!(at(&[2, 3, 4], 2), (Spread::Full, None));
        assert_eq!(at(&[4], 2), (Spread::PerColumn, None));
        assert_eq!(at(&[2, 3, 1], 2), (Spread::PerRow, None));
        assert_eq!(at(&[1], 2), (Spread::Scalar, None));
        assert_eq!(at(&[3, 1], 2), (Spread::PerRow, Some(vec![2, 3, 1])));
        assert_eq!(at(&[1, 4], 1), (Spread::PerColumn, Some(vec![1, 3, 4])));
        assert_eq!(at(&[1, 1, 4], 1), (Spread::PerColumn, Some(vec![1, 3, 4])));
        assert_eq!(at(&[2, 1, 4], 2), (Spread::Full, Some(vec![2, 3, 4])));
        assert_eq!(best_split(&[full, &[4]], full), 2);
        assert_eq!(best_split(&[full, &[3, 4]], full), 1);
        assert_eq!(best_split(&[full, &[2, 1, 1]], full), 1);
        assert_eq!(best_split(&[&[]], &[]), 0);
    }
}
