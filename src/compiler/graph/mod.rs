//! Whole graphs: what a model is between its file and the program.
//!
//! Models: values (name, element type, static shape, where they come from) and nodes in the order in which they can run. A node
//! does one of a small closed set of operations ([`Op`]), each of which the chip lowers in one way:
//!
//! | operation | what it covers |
//! |---|---|
//! | [`Op::Matmul`] | products over the last two axes, batched; either operand may be a constant; B with block scales (MX, NVFP4), A quantised to blocks as it is read |
//! | [`Op::Attention`] | softmax(scale Q K^T + mask) V with grouped heads, causal offset, window, sinks, soft-cap, lengths |
//! | [`Op::Rowwise`] | a small program over rows: element-wise, norms, softmax, reductions, casts, quantise ([`super::rowwise`]) |
//! | [`Op::Layout`] | one affine view of one tensor: transpose, reshape, slice, expand ([`View`]) |
//! | [`Op::Concat`], [`Op::Pad`] | tensors one after the other along an axis; a border of one value |
//! | [`Op::Gather`] | slices of a table by I32 index: embeddings, caches of RoPE |
//! | [`Op::TopK`] | the k largest or smallest of each row, with their places; ArgMax is k = 1 |
//! | [`Op::Grouped`] | rows times the matrix of their expert: mixtures of experts |
//! | [`Op::Epilogue`] | a product and what follows its sums element by element: a pass makes it of a product and a row-wise program |
//!
//! What a file says in other words, an importer says in these ([`super::import`]): RoPE is slices, a row-wise program and a
//! concatenation; a KV cache grows by a concatenation; a reduction over other axes is a transpose and a reduction over rows.
//!
//! Leaves out on purpose: dynamic shapes (an importer binds them), control flow, values of strings, 64-bit numbers and booleans
//! (they become F32, I32 and U8), and how anything is computed. A tensor is contiguous, the last axis innermost; an element-wise
//! operation does not see shapes at all, only rows and columns, so that a reshape in front of it costs nothing.
//!
//! Invariants, all checked by [`Graph::verify`] and kept by [`Builder`]: every value is an input, a constant or the output of
//! exactly one node; a node stands after those that it needs, so a graph has no cycle; types and shapes of each node agree;
//! every extent is 1 to 2^32, every tensor and all that must be in HBM at once fit. Each node says where it stands in its
//! source ([`Node::place`]), and every error repeats it.
//!
//! Passes that rewrite graphs (fusion) take a `Graph` and give a `Graph`; the reference evaluation is `crate::reference::graph`.
//!
//! Reading order: [`op`] (the operations and their types), [`view`], [`build`], [`verify`], [`data`], [`derive`].

pub mod build;
pub mod data;
pub mod derive;
pub mod drawn;
pub mod op;
pub mod print;
pub mod verify;
pub mod view;

#[cfg(test)]
mod tests;

use crate::num::Dtype;
use std::sync::Arc;

pub use build::Builder;
pub use data::{Data, DataError, FileRange};
pub use derive::{Blocks, Recipe, Source};
pub use drawn::{Drawn, Like};
pub use op::{Attention, Gather, Grouped, Matmul, Op, Pad, TopK};
pub use verify::{GraphError, Problem};
pub use view::View;

/// Index of a value in [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub u32);

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Given for each run; never treated as a constant.
    Input,
    /// Known before any run: weights.
    Constant(Data),
    /// Made by a node, used by others.
    Intermediate,
    /// Made by a node, wanted after the run.
    Output,
}

/// A tensor of a graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// As in the source; unique among inputs and outputs.
    pub name: String,
    pub dtype: Dtype,
    /// Outermost first; empty: a scalar.
    pub shape: Vec<u64>,
    pub kind: Kind,
}

impl Value {
    /// Number of elements; saturates.
    pub fn elements(&self) -> u64 {
        elements(&self.shape)
    }

    /// Size in bytes, elements of less than a byte packed; saturates.
    pub fn bytes(&self) -> u64 {
        self.dtype.bytes_for(self.elements())
    }
}

/// Product of extents; saturates.
pub fn elements(shape: &[u64]) -> u64 {
    shape.iter().fold(1, |n: u64, d| n.saturating_mul(*d))
}

/// An operation on values.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub op: Op,
    /// In the order that the operation states.
    pub inputs: Vec<ValueId>,
    pub outputs: Vec<ValueId>,
    /// Where it stands in the source, such as "node 12 `/layers.0/mlp/Add` (Add)". Several nodes share it if the source says
    /// in one operation what takes several here.
    pub place: Arc<str>,
}

/// A computation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    pub name: String,
    pub values: Vec<Value>,
    /// Each after those that it needs.
    pub nodes: Vec<Node>,
    pub inputs: Vec<ValueId>,
    pub outputs: Vec<ValueId>,
}

impl std::ops::Index<ValueId> for Graph {
    type Output = Value;
    fn index(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }
}

impl Graph {
    /// The values of a list of ids.
    pub fn list<'a>(&'a self, ids: &'a [ValueId]) -> impl Iterator<Item = &'a Value> {
        ids.iter().map(|id| &self[*id])
    }

    /// Constants with their ids, in order.
    pub fn constants(&self) -> impl Iterator<Item = (ValueId, &Value, &Data)> {
        let all = self.values.iter().enumerate();
        all.filter_map(|(i, value)| match &value.kind {
            Kind::Constant(data) => Some((ValueId(i as u32), value, data)),
            _ => None,
        })
    }
}

/// The node that makes each value.
pub fn made_by(graph: &Graph) -> Vec<Option<usize>> {
    let mut of = vec![None; graph.values.len()];
    for (index, node) in graph.nodes.iter().enumerate() {
        node.outputs
            .iter()
            .for_each(|id| of[id.0 as usize] = Some(index));
    }
    of
}
