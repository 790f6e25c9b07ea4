//! Element-wise programs over a concatenation, as programs over its operands.
//!
//! | matches | gives | why it is equal |
//! |---|---|---|
//! | a program without reductions whose one operand is a concatenation of what programs make | a program for each operand, and the concatenation of what they make | every element is a function of the element at its place |
//!
//! The cast of a key that was turned half by half becomes part of the program that turns it ([`super::fuse`]). Exact.

use super::rewrite::rewrite;
use super::{Folded, LegalError};
use crate::compiler::graph::{Graph, Op, elements, made_by};
use crate::compiler::rowwise::{Rowwise, Spread, Step};

/// The pass.
///
/// # Errors
/// A graph that is none.
pub fn pieces(graph: &Graph, folded: &mut Folded) -> Result<Graph, LegalError> {
    let of = made_by(graph);
    let maker = |id: crate::compiler::graph::ValueId| of[id.0 as usize].map(|n| &graph.nodes[n]);
    rewrite(graph, "pieces", folded, |r, _, node, _| {
        let Op::Rowwise(program) = &node.op else {
            return Ok(None);
        };
        let joined = node.inputs.first().and_then(|id| maker(*id));
        let Some((joined, axis)) = joined.and_then(|n| match &n.op {
            Op::Concat { axis } => Some((n, *axis)),
            _ => None,
        }) else {
            return Ok(None);
        };
        let shape = &graph[node.inputs[0]].shape;
        let full = |spread: Spread| spread == Spread::Full;
        let plain = program.inputs.len() == 1
            && program.inputs.iter().all(|i| full(i.spread))
            && program.outputs.iter().all(|o| full(o.spread))
            && !program.steps.iter().any(|s| matches!(s, Step::Reduce(..)))
            && graph.list(&node.outputs).all(|v| v.shape == *shape);
        let programs = |id| maker(id).is_some_and(|n| matches!(n.op, Op::Rowwise(_)));
        if !plain || !joined.inputs.iter().all(|id| programs(*id)) {
            return Ok(None);
        }
        let mut made = vec![Vec::new(); node.outputs.len()];
        for id in &joined.inputs {
            let shape = graph[*id].shape.clone();
            let piece = Rowwise {
                rows: elements(&shape[..axis]),
                cols: elements(&shape[axis..]),
                ..program.clone()
            };
            let results: Vec<_> = piece
                .outputs
                .iter()
                .map(|o| (o.dtype, &shape[..]))
                .collect();
            let x = r.value(*id)?;
            let pieces = r.new.push(Op::Rowwise(piece.clone()), &[x], &results)?;
            for (all, one) in made.iter_mut().zip(pieces) {
                all.push(one);
            }
        }
        let mut results = Vec::new();
        for pieces in &made {
            results.push(r.new.concat(pieces, axis)?);
        }
        Ok(Some(results))
    })
}
