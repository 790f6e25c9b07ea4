//! Products of the same A with several constants as one product.
//!
//! | matches | gives | why it is equal |
//! |---|---|---|
//! | A B1, A B2, .. with the same A [.., k] and constants B [k, n] of one type, results of one type | A [B1 B2 ..] once, and views of its columns | each column's sum is the same |
//!
//! Q, K and V of a layer, gate and up of an MLP: for few rows one long stream of weights is better than several short ones. For many
//! rows the views are copies of large results, which is why there is a limit. It comes before [`super::products`], so that casts and
//! scales of results are one program, too. Exact.

use super::rewrite::rewrite;
use super::{Folded, LegalError};
use crate::compiler::graph::{Graph, Kind, Op, Recipe, Source, ValueId, View, elements, made_by};
use crate::num::Dtype;
use rustc_hash::FxHashMap;

/// What siblings share: the tensor under A, its shape, types of B and C.
type Key = (ValueId, Vec<u64>, Dtype, Dtype);

/// The pass, for products of at most `rows` rows.
///
/// # Errors
/// A graph that is none.
pub fn merge_siblings(graph: &Graph, rows: u64, folded: &mut Folded) -> Result<Graph, LegalError> {
    let of = made_by(graph);
    let mut groups: FxHashMap<Key, Vec<usize>> = FxHashMap::default();
    for (index, node) in graph.nodes.iter().enumerate() {
        let (Op::Matmul(op), [a, b]) = (&node.op, &node.inputs[..]) else {
            continue;
        };
        let constant = matches!(graph[*b].kind, Kind::Constant(_));
        let outer = graph[*a]
            .shape
            .split_last()
            .map_or(&[][..], |(_, outer)| outer);
        if constant && elements(outer) <= rows && graph[*b].shape.len() == 2 {
            let shape = graph[*a].shape.clone();
            let key = (root(graph, &of, *a), shape, graph[*b].dtype, op.dtype);
            groups.entry(key).or_default().push(index);
        }
    }
    let mut group_of: Vec<Option<&Vec<usize>>> = vec![None; graph.nodes.len()];
    for group in groups.values().filter(|group| group.len() > 1) {
        group
            .iter()
            .for_each(|index| group_of[*index] = Some(group));
    }
    let mut made: FxHashMap<usize, ValueId> = FxHashMap::default();
    rewrite(graph, "siblings", folded, |r, index, node, operands| {
        let (Some(group), Op::Matmul(op)) = (group_of[index], &node.op) else {
            return Ok(None);
        };
        if let Some(id) = made.get(&index) {
            return Ok(Some(vec![*id]));
        }
        // The first of them makes all.
        let mut sources: Vec<Source> = Vec::with_capacity(group.len());
        for sibling in group {
            let b = r.value(graph.nodes[*sibling].inputs[1])?;
            sources.extend(r.source(b));
        }
        let widths: Vec<u64> = sources.iter().map(|s| s.shape[1]).collect();
        let shape = [sources[0].shape[0], widths.iter().sum()];
        let dtype = sources[0].dtype;
        r.folded += group.len();
        let b = r.derive(
            operands[1],
            "siblings",
            Recipe::Concat(sources, 1),
            dtype,
            &shape,
        )?;
        let c = r.new.matmul(operands[0], b, op.dtype)?;
        let (all, mut start) = (r.new.shape(c).to_vec(), 0);
        for (sibling, width) in group.iter().zip(widths) {
            let view = View::slice(&all, all.len() - 1, start, 1, width);
            made.insert(*sibling, r.layout(c, view)?);
            start += width;
        }
        Ok(made.get(&index).map(|id| vec![*id]))
    })
}

/// The value whose bytes a value has: what it is an alias of, or itself.
pub fn root(graph: &Graph, of: &[Option<usize>], id: ValueId) -> ValueId {
    let mut id = id;
    while let Some(node) = of[id.0 as usize].map(|index| &graph.nodes[index])
        && let Op::Layout(view) = &node.op
        && view.is_alias(graph[node.inputs[0]].elements())
    {
        id = node.inputs[0];
    }
    id
}
