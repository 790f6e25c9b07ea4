//! Row-wise operands that a view repeats, read as what they are.
//!
//! | matches | gives | why it is equal |
//! |---|---|---|
//! | a full operand that is a view with no step from column to column | the view's rows, read per row | every column reads the same element |
//! | a full operand that is a view with no step from row to row | the view's columns, read per column | every row reads the same elements |
//! | any operand that is a view with no step at all | one element, read as a scalar | as above |
//!
//! So a mask, a bias or positions that a model expands cost no traffic. Exact.

use super::rewrite::{Rewriter, rewrite};
use super::{Folded, LegalError};
use crate::compiler::graph::{Graph, Op, ValueId, View, elements, made_by};
use crate::compiler::rowwise::Spread;

/// The pass.
///
/// # Errors
/// A graph that is none.
pub fn broadcasts(graph: &Graph, folded: &mut Folded) -> Result<Graph, LegalError> {
    let of = made_by(graph);
    rewrite(graph, "broadcast", folded, |r, _, node, operands| {
        let Op::Rowwise(op) = &node.op else {
            return Ok(None);
        };
        let (mut op, mut operands, mut changed) = (op.clone(), operands.to_vec(), false);
        for (at, id) in node.inputs.iter().enumerate() {
            let Some(from) = of[id.0 as usize].map(|index| &graph.nodes[index]) else {
                continue;
            };
            let Op::Layout(view) = &from.op else {
                continue;
            };
            if let Some((spread, view)) = narrow(view, op.inputs[at].spread, op.rows) {
                op.inputs[at].spread = spread;
                operands[at] = part(r, from.inputs[0], view)?;
                changed = true;
            }
        }
        if !changed {
            return Ok(None);
        }
        let results: Vec<_> = (graph.list(&node.outputs))
            .map(|v| (v.dtype, &v.shape[..]))
            .collect();
        Ok(Some(r.new.push(Op::Rowwise(op), &operands, &results)?))
    })
}

fn part(r: &mut Rewriter<'_>, of: ValueId, view: View) -> Result<ValueId, LegalError> {
    let of = r.value(of)?;
    r.layout(of, view)
}

/// The spread and the part of a repeating view that an operand with this spread reads.
fn narrow(view: &View, spread: Spread, rows: u64) -> Option<(Spread, View)> {
    let still = |range: std::ops::Range<usize>| {
        range
            .clone()
            .all(|a| view.shape[a] == 1 || view.strides[a] == 0)
    };
    let rank = view.shape.len();
    let part = |range: std::ops::Range<usize>| View {
        shape: view.shape[range.clone()].to_vec(),
        strides: view.strides[range].to_vec(),
        offset: view.offset,
    };
    if elements(&view.shape) == 1 {
        return None;
    }
    if still(0..rank) {
        return (spread != Spread::Scalar).then(|| (Spread::Scalar, part(0..0)));
    }
    // What is one row, or one column, is not repeated.
    if spread != Spread::Full || rows == 1 || elements(&view.shape) == rows {
        return None;
    }
    let split =
        (0..=rank).find(|split| elements(&view.shape[..*split]) == rows && still(*split..rank));
    if let Some(split) = split {
        return Some((Spread::PerRow, part(0..split)));
    }
    let split =
        (0..=rank).find(|split| elements(&view.shape[..*split]) == rows && still(0..*split))?;
    Some((Spread::PerColumn, part(split..rank)))
}
