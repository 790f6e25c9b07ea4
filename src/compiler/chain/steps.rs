//! From nodes to steps: which lowering does what, on which values.
//!
//! Models: one step for each node that computes or moves something; a view or an operand of a concatenation that is a part of another value
//! ([`super::parts`]) is no step but an address. Products of few rows with constants are layers of the stream of weights
//! ([`super::linear`]). Leaves out: where values lie. Invariant: steps stand in the order of nodes; a step's reads and writes are the
//! operands and results of its lowering, in its order.

use super::ChainError;
use super::experts::{Experts, Ids};
use super::linear::Layers;
use super::parts::Parts;
use super::sites::Sites;
use crate::chip::{Chip, cost};
use crate::compiler::attention::Schedule;
use crate::compiler::attention::form::{known, v_in_k};
use crate::compiler::graph::{self, Graph, Kind, Node, Op as NodeOp, Value, ValueId, made_by};
use crate::compiler::grouped::{self, Packing};
use crate::compiler::linear::Stream;
use crate::compiler::movement::{self, Axis, Batched, Copy, Gather, Source, TopK};
use crate::compiler::op::{Bound, BoundUnit};
use crate::compiler::rowwise::Rowwise;
use crate::compiler::stage::{Site, Stage};
use crate::compiler::{Attention, CompileError, Matmul, MatmulType, Op, Operand};
use crate::compiler::{attention, matmul, rowwise};
use crate::isa::ScaleType;
use crate::num::{Dtype, Overflow, Rounding, encode};
use std::sync::Arc;

/// What a step does.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// An operation that also exists alone.
    Op(Op),
    /// A layer of the stream of weights: its number and its parts of K.
    Layer {
        layer: usize,
        op: Matmul,
    },
    /// A product and the program that follows its sums.
    Ended(Matmul, Rowwise),
    Copy(Copy),
    Gather(Gather),
    Batched(Batched),
    TopK(TopK),
    /// Rows by their experts, and what is known of which.
    Grouped(Arc<Packing>, Ids),
}

/// The schedule of an attention. Where values may be local, that of decoding is taken if it is slower by less than a write and a read of HBM:
/// it can send O to all tiles.
fn scheduled(op: &Attention, sites: &Sites) -> Result<Schedule, CompileError> {
    let chip = attention::planned(&sites.attention);
    let found = attention::schedules(op, &chip)?;
    let trip = 2 * u64::from(chip.hbm.path.total_ns()) * chip.clock_hz / 1_000_000_000;
    let most = match sites.near.bytes {
        0 => found[0].cycles(),
        _ => found[0].cycles().saturating_add(trip),
    };
    let decode = |s: &&Schedule| matches!(s, Schedule::Decode(_)) && s.cycles() <= most;
    Ok(*found.iter().find(decode).unwrap_or(&found[0]))
}

/// A value that a step reads, or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub value: ValueId,
    /// Bytes in front of what is read.
    pub plus: u64,
}

/// A step of the program: one stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Index of the node in the graph.
    pub node: usize,
    pub work: Work,
    /// What it reads, in the order of the lowering's operands.
    pub reads: Vec<Read>,
    /// Values that it writes.
    pub writes: Vec<ValueId>,
}

impl Work {
    /// The program text of it at a site, and what a tile may do before its operands are there, but those of [`Work::early_reads`].
    pub fn stage(
        &self,
        site: &Site,
        sites: &Sites,
        stream: Option<&Stream>,
    ) -> Result<(String, Stage), CompileError> {
        if let Work::Grouped(p, ids) = self {
            let grouped::Split { early, stage } =
                grouped::split(p, ids.listed, sites.grouped, site)?;
            return Ok((early, stage));
        }
        let stage = match self {
            Work::Op(Op::Matmul(op)) => matmul::stage(op, site),
            Work::Op(Op::Attention(op)) => attention::stage_as(op, site, &scheduled(op, sites)?),
            Work::Op(Op::Rowwise(op)) => rowwise::stage(op, site),
            Work::Op(Op::Stream(_)) => unreachable!("no node of a graph is a stream"),
            Work::Layer { layer, .. } => {
                let stream = stream.expect("a layer is one of a stream");
                stream.stage(*layer, site, site.tensors[0], site.tensors[1])
            }
            Work::Ended(op, program) => matmul::stage_fused(op, program, site),
            Work::Copy(op) => movement::copy(op, site),
            Work::Gather(op) => movement::gather(op, sites.tables, site),
            Work::Batched(op) => movement::batched(op, site),
            Work::TopK(op) => movement::topk(op, site),
            Work::Grouped(..) => unreachable!("it has returned"),
        };
        Ok((String::new(), stage?))
    }

    /// Whether an operand may lie in the SRAM of every tile.
    pub fn reads_local(&self, operand: usize) -> bool {
        match self {
            Work::Op(Op::Rowwise(_)) | Work::Layer { .. } | Work::Copy(_) | Work::TopK(_) => true,
            // What steers transfers is read as it lies in HBM; keys and values are caches.
            Work::Op(Op::Attention(_)) | Work::Gather(_) => operand == 0,
            // The schedule of many rows moves them between HBM and the tiles that have them.
            Work::Grouped(p, _) => operand == 0 && !p.sorted,
            Work::Op(_) | Work::Batched(_) | Work::Ended(..) => false,
        }
    }

    /// Whether it can send a result to every tile.
    pub fn writes_local(&self, result: usize, sites: &Sites) -> bool {
        match self {
            Work::Op(Op::Rowwise(_)) | Work::Layer { .. } | Work::Gather(_) => true,
            Work::Grouped(p, _) => !p.sorted,
            // Places steer transfers.
            Work::TopK(_) => result == 0,
            Work::Op(Op::Attention(op)) => {
                matches!(scheduled(op, sites), Ok(Schedule::Decode(_)))
            }
            Work::Op(_) | Work::Copy(_) | Work::Batched(_) | Work::Ended(..) => false,
        }
    }

    /// Operands that must be there for the early part of its text.
    pub fn early_reads(&self) -> &'static [usize] {
        match self {
            Work::Grouped(_, ids) if !ids.listed => &[1],
            _ => &[],
        }
    }

    /// The site of its stage, without tensors.
    pub fn site<'a>(&self, sites: &'a Sites) -> &'a Site {
        match self {
            Work::Op(Op::Attention(_)) => &sites.attention,
            _ => &sites.other,
        }
    }

    /// Least time of every unit.
    pub fn bound(&self, chip: &Chip) -> Bound {
        match self {
            Work::Op(op) => op.bound(chip),
            Work::Layer { op, .. } => Op::Matmul(*op).bound(chip),
            // What its parts take of each unit but the HBM, which the sums do not cross.
            Work::Ended(op, program) => {
                let (read, written) = self.hbm_bytes();
                let peak = cost::hbm_peak_bytes_per_s(chip).max(1) as f64;
                let hbm = (read as f64 + written as f64) / peak;
                let vector = Op::Rowwise(program.clone()).bound(chip).units;
                let vector = vector.into_iter().find(|(u, _)| *u == BoundUnit::Vector);
                let tensor = Op::Matmul(*op).bound(chip).units;
                let tensor = tensor.into_iter().find(|(u, _)| *u == BoundUnit::Tensor);
                let units = [Some((BoundUnit::Hbm, hbm)), vector, tensor];
                Bound::of(units.into_iter().flatten().collect())
            }
            Work::Copy(_)
            | Work::Gather(_)
            | Work::Batched(_)
            | Work::TopK(_)
            | Work::Grouped(..) => {
                let (read, written) = self.hbm_bytes();
                let peak = cost::hbm_peak_bytes_per_s(chip).max(1) as f64;
                let mut units = vec![(BoundUnit::Hbm, (read as f64 + written as f64) / peak)];
                let types = match self {
                    Work::Batched(op) => Some((op.dtypes[0], op.dtypes[1])),
                    Work::Grouped(p, _) => Some((p.op.operand(), p.op.weights.dtype)),
                    _ => None,
                };
                if let Some((a, b)) = types {
                    let flops = cost::peak_flops(chip, a, b).max(1);
                    units.push((BoundUnit::Tensor, self.flops() as f64 / flops as f64));
                }
                Bound::of(units)
            }
        }
    }

    pub fn flops(&self) -> u128 {
        match self {
            Work::Op(op) => op.flops(),
            Work::Layer { op, .. } | Work::Ended(op, _) => Op::Matmul(*op).flops(),
            Work::Copy(_) | Work::Gather(_) | Work::TopK(_) => 0,
            Work::Grouped(p, _) => p.op.flops(),
            Work::Batched(op) => {
                let batches: u128 = op.batches.iter().map(|a| u128::from(a.count)).product();
                2 * batches * u128::from(op.m) * u128::from(op.n) * u128::from(op.k)
            }
        }
    }

    /// Bytes that it must read of its operand `n`, which has so many; an expert's weights are no operand here.
    pub fn least_read(&self, n: usize, bytes: u64) -> u64 {
        let least = match self {
            Work::Op(op) => {
                let tensors = op.tensors();
                let operand = tensors.iter().filter(|t| !t.output).nth(n);
                operand.map_or(bytes, |t| op.least_bytes(t))
            }
            Work::Gather(op) if n == 0 => op.result_bytes(),
            Work::Copy(op) => {
                let of = |p: &&movement::Part| p.source == Source::Operand(n);
                let parts = op.parts.iter().filter(of);
                // What is repeated is read once.
                let elements = parts.map(|p| {
                    let axes = p.shape.iter().zip(&p.strides);
                    axes.filter(|(_, s)| **s != 0)
                        .map(|(n, _)| *n)
                        .product::<u64>()
                });
                op.dtype.bytes_for(elements.sum())
            }
            _ => bytes,
        };
        least.min(bytes)
    }

    /// Bytes that it must read and write.
    pub fn hbm_bytes(&self) -> (u64, u64) {
        match self {
            Work::Op(op) => op.compulsory_bytes(),
            Work::Layer { op, .. } => Op::Matmul(*op).compulsory_bytes(),
            Work::Ended(op, program) => {
                let sums = Dtype::F32.bytes_for(op.m * op.n);
                let (a, _) = Op::Matmul(*op).compulsory_bytes();
                let (beside, written) = Op::Rowwise(program.clone()).compulsory_bytes();
                (a + beside - sums, written)
            }
            Work::Copy(op) => {
                let moved = |fill: bool| {
                    let parts = op.parts.iter();
                    let parts = parts.filter(|p| fill || matches!(p.source, Source::Operand(_)));
                    op.dtype
                        .bytes_for(parts.map(|p| graph::elements(&p.shape)).sum())
                };
                (moved(false), moved(true))
            }
            Work::Gather(op) => {
                let bytes = op.result_bytes();
                (bytes + 4 * op.indices, bytes)
            }
            Work::Grouped(p, ids) => p.op.hbm_bytes(ids.least),
            Work::TopK(op) => {
                let size = u64::from(op.dtype.bits() / 8);
                (op.rows * op.n * size, op.rows * op.k * (size + 4))
            }
            Work::Batched(op) => {
                // An operand that all share is read once.
                let size = |i: usize, elements: u64, stride: fn(&Axis) -> u64| {
                    let own = op.batches.iter().filter(|a| stride(a) > 0);
                    let batches: u64 = own.map(|a| a.count).product();
                    op.dtypes[i].bytes_for(batches * elements)
                };
                let a = size(0, op.m * op.k, |a| a.a);
                let b = size(1, op.k * op.n, |a| a.b);
                (a + b, size(2, op.m * op.n, |a| a.c))
            }
        }
    }

    fn validate(&self, chip: &Chip) -> Result<(), CompileError> {
        match self {
            Work::Op(op) => Ok(op.validate(chip)?),
            Work::Ended(op, program) => {
                Op::Matmul(*op).validate(chip)?;
                Ok(Op::Rowwise(program.clone()).validate(chip)?)
            }
            Work::Layer { .. }
            | Work::Copy(_)
            | Work::Gather(_)
            | Work::Batched(_)
            | Work::TopK(_)
            | Work::Grouped(..) => Ok(()),
        }
    }
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // Programs that add the parts of products have many operands.
            Work::Op(Op::Rowwise(p)) => {
                let types: Vec<&str> = p.outputs.iter().map(|o| o.dtype.name()).collect();
                let (rows, cols, steps, inputs) = (p.rows, p.cols, p.steps.len(), p.inputs.len());
                let to = types.join(", ");
                write!(
                    f,
                    "rowwise [{rows}, {cols}], {steps} steps, {inputs} operands -> {to}"
                )
            }
            Work::Op(op) => op.fmt(f),
            Work::Layer { op, .. } => write!(f, "linear, {}", Op::Matmul(*op)),
            Work::Ended(op, p) => {
                let sums = Matmul {
                    out: Dtype::Bf16,
                    ..*op
                };
                let (steps, operands) = (p.steps.len() - 1, p.inputs.len() - 1);
                write!(f, "{}, then {steps} steps", Op::Matmul(sums))?;
                if operands > 0 {
                    write!(f, ", {operands} operands")?;
                }
                write!(f, " -> {}", p.outputs[0].dtype)
            }
            Work::Copy(op) => write!(f, "copy of {} parts, {}", op.parts.len(), op.dtype),
            Work::Gather(op) => op.fmt(f),
            Work::Batched(op) => op.fmt(f),
            Work::TopK(op) => op.fmt(f),
            Work::Grouped(p, _) => p.op.fmt(f),
        }
    }
}

/// The steps of a graph.
///
/// # Errors
/// The first node that has no lowering, or whose lowering cannot be on this chip.
pub fn steps(
    graph: &Graph,
    parts: &Parts,
    layers: &Layers,
    experts: &Experts,
    chip: &Chip,
) -> Result<Vec<Step>, ChainError> {
    let makers = made_by(graph);
    let mut all = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let before = all.len();
        if let Some(layer) = layers.of_node(index) {
            all.extend(layers.steps(graph, layer, index));
        } else if let Some(expert) = experts.of_node(index) {
            all.push(Step {
                node: index,
                work: Work::Grouped(expert.packing.clone(), expert.ids),
                reads: expert.reads(graph),
                writes: node.outputs.clone(),
            });
        } else if let Some(step) = step(graph, parts, layers, &makers, index, node)? {
            all.push(step);
        }
        for step in &all[before..] {
            let refuse = |error| ChainError::Stage {
                place: node.place.to_string(),
                error,
            };
            step.work.validate(chip).map_err(refuse)?;
        }
    }
    Ok(all)
}

/// The step of a node that is no layer of the stream, if it takes one.
fn step(
    graph: &Graph,
    parts: &Parts,
    layers: &Layers,
    makers: &[Option<usize>],
    index: usize,
    node: &Node,
) -> Result<Option<Step>, ChainError> {
    let value = |i: usize| &graph[node.inputs[i]];
    let refuse = |what: String| ChainError::Node {
        place: node.place.to_string(),
        what,
    };
    let mut reads: Vec<Read> = node
        .inputs
        .iter()
        .map(|id| Read {
            value: *id,
            plus: 0,
        })
        .collect();
    let result = node.outputs[0];
    let work = match &node.op {
        NodeOp::Matmul(_) if value(1).shape.len() > 2 => {
            let op = batches(value(0), value(1), &graph[result]);
            Work::Batched(
                op.ok_or_else(|| refuse("a product over more than one batch axis".into()))?,
            )
        }
        NodeOp::Matmul(op) => {
            let operands: Vec<&Value> = graph.list(&node.inputs).collect();
            let op = product(op, &operands, &graph[result]).map_err(refuse)?;
            Work::Op(Op::Matmul(op))
        }
        NodeOp::Epilogue(program) => {
            let operands = [value(0), value(1)];
            let op = ended(program, &operands).map_err(refuse)?;
            let step = |id: ValueId| parts.root(id).pitch.map(|p| p.step);
            let mut program = program.clone();
            for (input, id) in program.inputs[1..].iter_mut().zip(&node.inputs[2..]) {
                input.pitch = step(*id);
            }
            program.outputs[0].pitch = step(result);
            Work::Ended(op, program)
        }
        NodeOp::Attention(op) => {
            let v_in_k = v_in_k(graph, makers, node);
            let shapes = [0, 1, 2].map(|i| &value(i).shape[..]);
            let op = known(op, shapes, value(0).dtype, v_in_k);
            if v_in_k {
                reads.remove(2);
            }
            Work::Op(Op::Attention(op.map_err(|what| refuse(what.to_owned()))?))
        }
        NodeOp::Rowwise(program) => {
            let program = by_rows(program, parts, node);
            let (program, sums) = layers.summed(graph, parts, &program, &node.inputs);
            reads = sums;
            Work::Op(Op::Rowwise(program))
        }
        NodeOp::Layout(_) if parts.is_inside(result, node.inputs[0]) => return Ok(None),
        NodeOp::Layout(view) => Work::Copy(Copy::view(value(0).dtype, view)),
        NodeOp::Concat { axis } => match joined(graph, parts, *axis, node) {
            Some((copy, left)) => {
                reads = left
                    .into_iter()
                    .map(|value| Read { value, plus: 0 })
                    .collect();
                Work::Copy(copy)
            }
            None => return Ok(None),
        },
        NodeOp::Pad(pad) => {
            let (from, to) = (value(0), &graph[result]);
            let code = encode(from.dtype, pad.value, Rounding::Rne, Overflow::Saturate);
            let copy = Copy::pad(from.dtype, &from.shape, &to.shape, &pad.before, code);
            Work::Copy(copy)
        }
        NodeOp::Gather(op) => {
            let (data, indices) = (value(0), value(1));
            Work::Gather(Gather {
                dtype: data.dtype,
                outer: graph::elements(&data.shape[..op.axis]),
                extent: data.shape[op.axis],
                indices: indices.elements(),
                inner: graph::elements(&data.shape[op.axis + 1..]),
                negative: true,
            })
        }
        NodeOp::TopK(op) => Work::TopK(TopK::of(value(0).dtype, &value(0).shape, op)),
        NodeOp::Grouped(_) => return Err(refuse("a grouped product without a plan".to_owned())),
    };
    Ok(Some(Step {
        node: index,
        work,
        reads,
        writes: node.outputs.clone(),
    }))
}

/// A program whose operands and results are rows with gaps where they are parts of other values.
fn by_rows(program: &Rowwise, parts: &Parts, node: &Node) -> Rowwise {
    let mut program = program.clone();
    let step = |id: &ValueId| parts.root(*id).pitch.map(|p| p.step);
    for (input, id) in program.inputs.iter_mut().zip(&node.inputs) {
        input.pitch = step(id);
    }
    for (output, id) in program.outputs.iter_mut().zip(&node.outputs) {
        output.pitch = step(id);
    }
    program
}

/// The copy of those operands of a concatenation that do not lie in its result already, and which these are; `None` if all do.
fn joined(graph: &Graph, parts: &Parts, axis: usize, node: &Node) -> Option<(Copy, Vec<ValueId>)> {
    let result = node.outputs[0];
    let into = &graph[result].shape;
    let (whole, dtype) = (parts.root(result), graph[result].dtype);
    let mut at = vec![0; into.len()];
    let mut copy = Copy {
        dtype,
        operands: 0,
        parts: Vec::new(),
    };
    let mut left = Vec::new();
    for id in &node.inputs {
        let shape = &graph[*id].shape;
        let first = graph::elements(&into[axis + 1..]) * at[axis];
        let part = parts.root(*id);
        let there = part.of == whole.of && part.offset == whole.offset + dtype.bytes_for(first);
        if !there {
            let mut block = movement::Part::block(Source::Operand(left.len()), shape, into, &at);
            if let Some(p) = part.pitch {
                // An axis goes from row to row, or inside of rows.
                for stride in &mut block.strides {
                    if *stride >= p.cols as i64 {
                        *stride = *stride / p.cols as i64 * p.step as i64;
                    }
                }
            }
            copy.parts.push(block);
            left.push(*id);
        }
        at[axis] += shape[axis];
    }
    copy.operands = left.len();
    (!left.is_empty()).then_some((copy, left))
}

/// C[m, n] = A[m, k] B[k, n] of a product.
pub fn product(op: &graph::Matmul, operands: &[&Value], c: &Value) -> Result<Matmul, String> {
    let (a, b) = (operands[0], operands[1]);
    let of = |v: &Value| format!("{} {:?}", v.dtype, v.shape);
    let refuse = || format!("no product of {} and {} gives {}", of(a), of(b), of(c));
    let (Some((k, rows)), [_, n]) = (a.shape.split_last(), &b.shape[..]) else {
        return Err(refuse());
    };
    let scale = match operands.get(2) {
        None => ScaleType::None,
        Some(scales) if graph::Matmul::block(*k, scales) == 16 => ScaleType::Ue4m3,
        Some(_) => ScaleType::E8m0,
    };
    let of_a = match op.blocks {
        Some(dtype) => Operand { dtype, scale },
        None => Operand {
            dtype: a.dtype,
            scale: ScaleType::None,
        },
    };
    let of_b = Operand {
        dtype: b.dtype,
        scale,
    };
    let dtype = MatmulType::of(of_a, of_b).ok_or_else(refuse)?;
    Ok(Matmul {
        m: graph::elements(rows),
        n: *n,
        k: *k,
        dtype,
        out: c.dtype,
        input: op.blocks.map(|_| a.dtype),
    })
}

/// The product that an epilogue follows, with its sums as they are.
fn ended(program: &Rowwise, operands: &[&Value]) -> Result<Matmul, String> {
    let sums = Value {
        name: String::new(),
        dtype: Dtype::F32,
        shape: vec![program.rows, program.cols],
        kind: Kind::Intermediate,
    };
    let plain = graph::Matmul {
        dtype: Dtype::F32,
        blocks: None,
    };
    product(&plain, operands, &sums)
}

/// The product of a node, if it has one.
pub fn product_at(graph: &Graph, node: &Node) -> Option<Result<Matmul, String>> {
    let operands: Vec<&Value> = graph.list(&node.inputs).collect();
    match &node.op {
        NodeOp::Matmul(op) => Some(product(op, &operands, &graph[node.outputs[0]])),
        NodeOp::Epilogue(program) => Some(ended(program, &operands[..2])),
        _ => None,
    }
}

/// C[b, m, n] = A[b or 1, m, k] B[b or 1, k, n].
fn batches(a: &Value, b: &Value, c: &Value) -> Option<Batched> {
    let ([ab, m, k], [bb, _, n], [batch, ..]) = (&a.shape[..], &b.shape[..], &c.shape[..]) else {
        return None;
    };
    let dtypes = [a.dtype, b.dtype, c.dtype];
    let mut op = Batched::contiguous(dtypes, [*batch, *m, *n, *k], false);
    if *ab == 1 {
        op.batches[0].a = 0;
    }
    if *bb == 1 {
        op.batches[0].b = 0;
    }
    Some(op)
}

/// The times of units, added up, and the largest of them; what passes between stages need cross neither HBM nor the clusters' ports.
pub fn total(bounds: impl Iterator<Item = Bound>, hbm_s: f64) -> Bound {
    let mut units: Vec<(BoundUnit, f64)> = vec![(BoundUnit::Hbm, hbm_s)];
    let between = [BoundUnit::Hbm, BoundUnit::Noc];
    let all = bounds.flat_map(|b| b.units);
    for (unit, time) in all.filter(|(unit, _)| !between.contains(unit)) {
        match units.iter_mut().find(|(u, _)| *u == unit) {
            Some((_, sum)) => *sum += time,
            None => units.push((unit, time)),
        }
    }
    Bound::of(units)
}
