//! Views: views of views as one, and the layout of constants on the host.
//!
//! | matches | gives | why it is equal |
//! |---|---|---|
//! | Layout(Layout(x)), where [`View::then`] finds one view | Layout(x) | it reads the same elements |
//! | Layout(x) twice with the same view | once | it is the same |
//! | Layout(constant), unless it repeats much of little | a constant | the host copies the same elements |
//! | Concat of constants | a constant | as above |
//!
//! Leaves out: views of graph inputs, which are copied at run time unless they are aliases. Exact.

use super::rewrite::{HOST_ELEMENTS, Replaced, Rewriter, rewrite};
use super::{Folded, LegalError};
use crate::compiler::graph::{Graph, Node, Op, Recipe, Source, ValueId, View};
use rustc_hash::FxHashMap;

/// The pass.
///
/// # Errors
/// A graph that is none.
pub fn layouts(graph: &Graph, folded: &mut Folded) -> Result<Graph, LegalError> {
    let mut views = Views {
        uses: uses(graph),
        of: FxHashMap::default(),
        known: FxHashMap::default(),
    };
    rewrite(
        graph,
        "layout",
        folded,
        |r, _, node, operands| match &node.op {
            Op::Layout(view) => views.view(r, node, operands[0], view),
            Op::Concat { axis } => concat(r, operands, *axis),
            _ => Ok(None),
        },
    )
}

/// How many operands each value is.
pub fn uses(graph: &Graph) -> Vec<usize> {
    let mut uses = vec![0; graph.values.len()];
    let operands = graph.nodes.iter().flat_map(|node| &node.inputs);
    for id in operands.chain(&graph.outputs) {
        uses[id.0 as usize] += 1;
    }
    uses
}

/// Views made so far, by new values.
struct Views {
    /// Uses of old values.
    uses: Vec<usize>,
    /// What a value is a view of.
    of: FxHashMap<ValueId, (ValueId, View)>,
    /// The value of a view.
    known: FxHashMap<(ValueId, View), ValueId>,
}

impl Views {
    fn view(&mut self, r: &mut Rewriter<'_>, node: &Node, x: ValueId, view: &View) -> Replaced {
        let (mut x, mut view) = (x, view.clone());
        if let Some((first, before)) = self.of.get(&x) {
            // An alias of a copy that others read too is free; as a view of the copy's source it would be a copy.
            let (made, wide) = (r.new.value(*first).elements(), r.new.value(x).elements());
            let shared = self.uses[node.inputs[0].0 as usize] > 1;
            let keep = shared && view.is_alias(wide) && !before.is_alias(made);
            if !keep && let Some(one) = before.then(&view) {
                (x, view) = (*first, one);
            }
        }
        let key = (x, view);
        if let Some(id) = self.known.get(&key) {
            return Ok(Some(vec![*id]));
        }
        let id = r.layout(key.0, key.1.clone())?;
        if id != key.0 {
            self.of.insert(id, key.clone());
        }
        self.known.insert(key, id);
        Ok(Some(vec![id]))
    }
}

fn concat(r: &mut Rewriter<'_>, operands: &[ValueId], axis: usize) -> Replaced {
    let sources: Option<Vec<Source>> = operands.iter().map(|id| r.source(*id)).collect();
    let Some(sources) = sources.filter(|s| s.len() > 1) else {
        return Ok(None);
    };
    let mut shape = sources[0].shape.clone();
    shape[axis] = sources.iter().map(|s| s.shape[axis]).sum();
    // The same constant many times over would fill memory.
    if shape.iter().product::<u64>() > HOST_ELEMENTS
        && (1..operands.len()).any(|i| operands[..i].contains(&operands[i]))
    {
        return Ok(None);
    }
    r.folded += 1;
    let (first, dtype) = (operands[0], sources[0].dtype);
    let made = r.derive(
        first,
        "concat",
        Recipe::Concat(sources, axis),
        dtype,
        &shape,
    )?;
    Ok(Some(vec![made]))
}
