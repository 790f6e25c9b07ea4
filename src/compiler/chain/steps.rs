//! From nodes to steps: which lowering does what, on which values.
//!
//! Models: one step for each node that computes or moves something. A view that reads elements in order and without gaps is no step but
//! an address. Leaves out: where values lie. Invariant: steps stand in the order of nodes; a step's operands and results are those of
//! its lowering, in its order.

use super::ChainError;
use super::parts::Parts;
use crate::chip::Chip;
use crate::compiler::graph::{self, Graph, Node, Op as NodeOp, Value, ValueId};
use crate::compiler::op::{Bound, BoundUnit};
use crate::compiler::stage::{Site, Stage};
use crate::compiler::{Attention, CompileError, Matmul, MatmulType, Op};
use crate::compiler::{attention, matmul, rowwise};
use crate::num::Dtype;

/// What a step does.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// An operation that also exists alone.
    Op(Op),
}

/// A step of the program: one stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Index of the node in the graph.
    pub node: usize,
    pub work: Work,
    /// Values that it reads, in the order of the lowering's operands.
    pub reads: Vec<ValueId>,
    /// Values that it writes.
    pub writes: Vec<ValueId>,
}

impl Work {
    /// The program text of it at a site.
    pub fn stage(&self, site: &Site) -> Result<Stage, CompileError> {
        match self {
            Work::Op(Op::Matmul(op)) => matmul::stage(op, site),
            Work::Op(Op::Attention(op)) => attention::stage(op, site),
            Work::Op(Op::Rowwise(op)) => rowwise::stage(op, site),
            Work::Op(Op::Stream(_)) => unreachable!("no node of a graph is a stream"),
        }
    }

    /// Least time of every unit.
    pub fn bound(&self, chip: &Chip) -> Bound {
        match self {
            Work::Op(op) => op.bound(chip),
        }
    }

    pub fn flops(&self) -> u128 {
        match self {
            Work::Op(op) => op.flops(),
        }
    }

    /// Bytes that it must read and write.
    pub fn hbm_bytes(&self) -> (u64, u64) {
        match self {
            Work::Op(op) => op.compulsory_bytes(),
        }
    }

    fn validate(&self, chip: &Chip) -> Result<(), CompileError> {
        match self {
            Work::Op(op) => Ok(op.validate(chip)?),
        }
    }
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Work::Op(op) => op.fmt(f),
        }
    }
}

/// The steps of a graph.
///
/// # Errors
/// The first node that has no lowering, or whose lowering cannot be on this chip.
pub fn steps(graph: &Graph, parts: &Parts, chip: &Chip) -> Result<Vec<Step>, ChainError> {
    let mut all = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let Some(work) = work(graph, parts, node)? else {
            continue;
        };
        work.validate(chip).map_err(|error| ChainError::Stage {
            place: node.place.to_string(),
            error,
        })?;
        all.push(Step {
            node: index,
            work,
            reads: node.inputs.clone(),
            writes: node.outputs.clone(),
        });
    }
    Ok(all)
}

fn work(graph: &Graph, parts: &Parts, node: &Node) -> Result<Option<Work>, ChainError> {
    let value = |i: usize| &graph[node.inputs[i]];
    let refuse = |what: String| ChainError::Node {
        place: node.place.to_string(),
        what,
    };
    let op = match &node.op {
        NodeOp::Matmul(_) => {
            Op::Matmul(product(value(0), value(1), &graph[node.outputs[0]]).map_err(refuse)?)
        }
        NodeOp::Attention(op) => Op::Attention(heads(op, value(0), value(1)).map_err(refuse)?),
        NodeOp::Rowwise(program) => Op::Rowwise(program.clone()),
        NodeOp::Layout(_) if parts.is_part(node.outputs[0]) => return Ok(None),
        op => {
            return Err(refuse(format!(
                "{} in a graph is not lowered yet",
                op.name()
            )));
        }
    };
    Ok(Some(Work::Op(op)))
}

/// C[m, n] = A[m, k] B[k, n] of a product.
fn product(a: &Value, b: &Value, c: &Value) -> Result<Matmul, String> {
    let of = |v: &Value| format!("{} {:?}", v.dtype, v.shape);
    let refuse = || format!("no product of {} and {} gives {}", of(a), of(b), of(c));
    let (Some((k, rows)), [_, n]) = (a.shape.split_last(), &b.shape[..]) else {
        return Err(refuse());
    };
    let dtype = match (a.dtype, b.dtype) {
        (Dtype::Bf16, Dtype::Bf16) => MatmulType::Bf16,
        (Dtype::E4m3, Dtype::E4m3) => MatmulType::Fp8,
        _ => return Err(refuse()),
    };
    Ok(Matmul {
        m: graph::elements(rows),
        n: *n,
        k: *k,
        dtype,
    })
}

/// Attention that the kernels know.
fn heads(op: &graph::Attention, q: &Value, k: &Value) -> Result<Attention, String> {
    let ([batch, q_len, heads, head_dim], [_, kv_len, kv_heads, _]) = (&q.shape[..], &k.shape[..])
    else {
        return Err("attention takes four axes".to_owned());
    };
    let ends = *kv_len as i64 - *q_len as i64;
    let plain = op.causal.is_none_or(|offset| offset == ends)
        && op.window.is_none_or(|window| window >= *kv_len)
        && op.softcap.is_none()
        && !(op.mask || op.sinks || op.lengths);
    if !plain {
        return Err(
            "attention with a mask, window, sinks, soft-cap or lengths has no kernel".to_owned(),
        );
    }
    Ok(Attention {
        batch: *batch,
        heads: *heads,
        kv_heads: *kv_heads,
        head_dim: *head_dim,
        q_len: *q_len,
        kv_len: *kv_len,
        causal: op.causal.is_some(),
        dtype: q.dtype,
    })
}

/// The times of units, added up, and the largest of them.
pub fn total(bounds: impl Iterator<Item = Bound>, hbm_s: f64) -> Bound {
    let mut units: Vec<(BoundUnit, f64)> = vec![(BoundUnit::Hbm, hbm_s)];
    for (unit, time) in bounds.flat_map(|b| b.units) {
        match units.iter_mut().find(|(u, _)| *u == unit) {
            // What passes between stages need not cross HBM.
            Some(_) if unit == BoundUnit::Hbm => {}
            Some((_, sum)) => *sum += time,
            None => units.push((unit, time)),
        }
    }
    let (unit, time_s) =
        units.iter().copied().fold(
            (BoundUnit::Hbm, 0.0),
            |best, u| if u.1 > best.1 { u } else { best },
        );
    Bound {
        unit,
        time_s,
        units,
    }
}
