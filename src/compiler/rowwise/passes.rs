//! What each pass over a row does: which values it makes, loads, keeps and reduces.
//!
//! Models: pass p makes what reductions of level p + 1 and full outputs of level p need. A later pass makes values anew from the
//! inputs, or reads those that an earlier pass kept in SRAM where making them costs more than a store and a load. Leaves out: how
//! a pass is written. Invariant: [`Pass::nodes`] lists operands before their users.

use super::graph::{Graph, Id, Kind};
use super::pipeline::Slot;
use super::{Rowwise, Spread};

/// One pass over the columns of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// Nodes that vary along the row, made in this order.
    pub nodes: Vec<Id>,
    /// Nodes read from where an earlier pass kept them.
    pub read: Vec<Id>,
    /// Nodes of this pass that later ones read.
    pub keep: Vec<Id>,
    /// Reductions.
    pub reduces: Vec<Id>,
    /// Full outputs, by index.
    pub outputs: Vec<usize>,
}

impl Pass {
    /// Values that the pass reads and does not make: one number a row, or one at all.
    pub fn uniform(&self, graph: &Graph) -> Vec<Id> {
        let mut all: Vec<Id> = Vec::new();
        let users = self.nodes.iter().chain(&self.reduces);
        let operands = users.flat_map(|id| graph.nodes[*id].operands().iter().copied());
        let stored = self.outputs.iter().map(|o| graph.outputs[*o]);
        for id in operands.chain(stored) {
            if graph.nodes[id].uniform() && !all.contains(&id) {
                all.push(id);
            }
        }
        all
    }
}

/// Cost above which a value is kept: a store, a load, and what they do to other accesses of the pass.
const KEEP: usize = 5;

/// The passes of a program; without `keep` every pass starts from the inputs.
pub fn passes(graph: &Graph, program: &Rowwise, keep: bool) -> Vec<Pass> {
    let mut all: Vec<Pass> = Vec::new();
    for level in 0..graph.passes {
        let mut pass = Pass::default();
        for (id, node) in graph.nodes.iter().enumerate() {
            if matches!(node.kind, Kind::Reduce(..)) && node.level == level + 1 {
                pass.reduces.push(id);
            }
        }
        for (o, id) in graph.outputs.iter().enumerate() {
            if program.outputs[o].spread == Spread::Full && graph.nodes[*id].level == level {
                pass.outputs.push(o);
            }
        }
        let roots: Vec<Id> = (pass.reduces.iter().map(|r| graph.nodes[*r].operands()[0]))
            .chain(pass.outputs.iter().map(|o| graph.outputs[*o]))
            .collect();
        let mut seen = vec![false; graph.nodes.len()];
        for root in roots {
            visit(graph, root, keep, &mut all, &mut pass, &mut seen);
        }
        all.push(pass);
    }
    all
}

/// Depth first, so that a value is made shortly before it is used.
fn visit(
    graph: &Graph,
    root: Id,
    keep: bool,
    earlier: &mut [Pass],
    pass: &mut Pass,
    seen: &mut [bool],
) {
    // An explicit stack: programs come from files.
    let mut stack = vec![(root, false)];
    while let Some((id, ready)) = stack.pop() {
        if ready {
            pass.nodes.push(id);
            continue;
        }
        if seen[id] || graph.nodes[id].uniform() {
            continue;
        }
        seen[id] = true;
        if keep
            && worth(graph, id)
            && let Some(first) = earlier.iter_mut().find(|p| p.nodes.contains(&id))
        {
            if !first.keep.contains(&id) {
                first.keep.push(id);
            }
            pass.read.push(id);
            continue;
        }
        stack.push((id, true));
        stack.extend(graph.nodes[id].operands().iter().rev().map(|o| (*o, false)));
    }
}

/// Whether a full value is worth keeping.
fn worth(graph: &Graph, id: Id) -> bool {
    if graph.nodes[id].spread != Spread::Full {
        return false;
    }
    let mut seen = vec![false; graph.nodes.len()];
    let (mut stack, mut cost) = (vec![id], 0);
    while let Some(id) = stack.pop() {
        let node = &graph.nodes[id];
        if node.uniform() || std::mem::replace(&mut seen[id], true) {
            continue;
        }
        cost += match node.kind {
            Kind::Input(_) => 2,
            Kind::Vector(_, Slot::Special, _) => 4,
            _ => 1,
        };
        stack.extend(node.operands());
    }
    cost > KEEP
}

/// Nodes that some pass keeps.
pub fn kept(graph: &Graph, program: &Rowwise) -> Vec<Id> {
    let all = passes(graph, program, true);
    all.iter().flat_map(|p| p.keep.iter().copied()).collect()
}
