//! Passing over a graph: every node is copied, or replaced by others that give the same results.
//!
//! Models: a new graph made next to the old one, in the old one's order; constants come over when something needs them. Leaves out:
//! changes of order ([`super::fuse`] does its own). Invariants: results that replace others have their types and shapes; what nothing
//! needs any more is dropped at the end.

use super::{Folded, LegalError};
use crate::compiler::graph::{
    Builder, Data, Graph, Kind, Node, Recipe, Source, Value, ValueId, View,
};
use crate::num::Dtype;

/// A pass at work.
#[derive(Debug)]
pub struct Rewriter<'a> {
    pub old: &'a Graph,
    pub new: Builder,
    /// The new value of each old one.
    of: Vec<Option<ValueId>>,
    /// Nodes that the host did.
    pub folded: usize,
}

impl Rewriter<'_> {
    /// The new value of an old one.
    ///
    /// # Errors
    /// An old graph out of order.
    pub fn value(&mut self, old: ValueId) -> Result<ValueId, LegalError> {
        if let Some(new) = self.of[old.0 as usize] {
            return Ok(new);
        }
        let value = &self.old[old];
        let Kind::Constant(data) = &value.kind else {
            return Err(LegalError::form(
                &value.name,
                "it is used before it is made",
            ));
        };
        let new = self
            .new
            .constant(&value.name, value.dtype, &value.shape, data.clone())?;
        self.of[old.0 as usize] = Some(new);
        Ok(new)
    }

    /// The new values of a node's operands.
    ///
    /// # Errors
    /// As [`Rewriter::value`].
    pub fn operands(&mut self, node: &Node) -> Result<Vec<ValueId>, LegalError> {
        node.inputs.iter().map(|id| self.value(*id)).collect()
    }

    /// The node as it is, with these operands.
    ///
    /// # Errors
    /// Operands that it does not take.
    pub fn copy(&mut self, node: &Node, operands: &[ValueId]) -> Result<Vec<ValueId>, LegalError> {
        let results: Vec<(Dtype, &[u64])> = self
            .old
            .list(&node.outputs)
            .map(|v| (v.dtype, &v.shape[..]))
            .collect();
        Ok(self.new.push(node.op.clone(), operands, &results)?)
    }

    /// A new value as a constant, if it is one.
    pub fn source(&self, id: ValueId) -> Option<Source> {
        source(self.new.value(id))
    }

    /// A constant that the host makes of others. The name is `of`'s with `what` behind it.
    ///
    /// # Errors
    /// A shape that no tensor has.
    pub fn derive(
        &mut self,
        of: ValueId,
        what: &str,
        recipe: Recipe,
        dtype: Dtype,
        shape: &[u64],
    ) -> Result<ValueId, LegalError> {
        let name = format!("{}.{what}", self.new.value(of).name);
        Ok(self.new.constant(&name, dtype, shape, recipe.data())?)
    }

    /// A view: of a constant on the host, if that does not make much of little.
    ///
    /// # Errors
    /// A view that leaves its operand.
    pub fn layout(&mut self, x: ValueId, view: View) -> Result<ValueId, LegalError> {
        let value = self.new.value(x);
        let same = view.shape == value.shape && view.is_alias(value.elements());
        let small = view.shape.iter().product::<u64>() <= value.elements().max(HOST_ELEMENTS);
        match self.source(x) {
            Some(of) if view.is_alias(value.elements()) && !same => {
                let name = value.name.clone();
                Ok(self.new.constant(&name, of.dtype, &view.shape, of.data)?)
            }
            Some(of) if small && !same => {
                self.folded += 1;
                let (dtype, shape) = (of.dtype, view.shape.clone());
                self.derive(x, "view", Recipe::View(of, view), dtype, &shape)
            }
            _ => Ok(self.new.layout(x, view)?),
        }
    }
}

/// Elements up to which a constant may grow when the host lays it out; larger repetitions are views at run time.
pub const HOST_ELEMENTS: u64 = 1 << 20;

/// A constant as the source of others.
pub fn source(value: &Value) -> Option<Source> {
    match &value.kind {
        Kind::Constant(data) => Some(Source {
            dtype: value.dtype,
            shape: value.shape.clone(),
            data: Data::clone(data),
        }),
        _ => None,
    }
}

/// Results of a node in place of its own, or `None` to copy it.
pub type Replaced = Result<Option<Vec<ValueId>>, LegalError>;

/// A graph with each node replaced or copied; counts in `folded` under the pass's name what the host did.
///
/// # Errors
/// Of the pass; a graph that it made and that is none.
pub fn rewrite(
    old: &Graph,
    name: &'static str,
    folded: &mut Folded,
    mut pass: impl FnMut(&mut Rewriter<'_>, usize, &Node, &[ValueId]) -> Replaced,
) -> Result<Graph, LegalError> {
    let mut r = Rewriter {
        old,
        new: Builder::new(&old.name),
        of: vec![None; old.values.len()],
        folded: 0,
    };
    for id in &old.inputs {
        let value = &old[*id];
        r.of[id.0 as usize] = Some(r.new.input(&value.name, value.dtype, &value.shape)?);
    }
    for (index, node) in old.nodes.iter().enumerate() {
        r.new.at(&node.place);
        let operands = r.operands(node)?;
        let results = match pass(&mut r, index, node, &operands)? {
            Some(results) => results,
            None => r.copy(node, &operands)?,
        };
        for (from, to) in node.outputs.iter().zip(results) {
            let (value, made) = (&old[*from], r.new.value(to));
            if (value.dtype, &value.shape) != (made.dtype, &made.shape) {
                let what = format!("{name} gives {made} for {value}");
                return Err(LegalError::form(&node.place, what));
            }
            if !value.name.starts_with('%') {
                r.new.name(to, &value.name);
            }
            r.of[from.0 as usize] = Some(to);
        }
    }
    for id in &old.outputs {
        let new = r.value(*id)?;
        r.new.output(new, &old[*id].name)?;
    }
    if r.folded > 0 {
        *folded.entry(name).or_default() += r.folded;
    }
    Ok(r.new.finish()?)
}
