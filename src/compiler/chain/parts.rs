//! Which values lie in others.
//!
//! Models: a view of a value, and an operand of a concatenation, as addresses in the other value: a range of it ([`Part::pitch`] none),
//! or equal rows at equal distances ([`Pitch`]). Rows with gaps are only for row-wise programs of as many columns, also behind products, whose transfers
//! know a pitch, for V that attention finds in the rows of its K, and for what is given before a run and read by a concatenation only: a cache
//! of several sequences; where anyone else makes or reads such a value, it is copied. Leaves out: where the others lie ([`super::place`]).
//! Invariants: no cycle; every element of a part lies inside the other value; what a node makes lies in one place.

use crate::compiler::attention::form::v_in_k;
use crate::compiler::graph::view::contiguous;
use crate::compiler::graph::{Graph, Kind, Op, ValueId, View, elements, made_by};
use crate::compiler::rowwise::Spread;

/// Rows with gaps, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pitch {
    /// Of a row.
    pub cols: u64,
    /// From a row to the next.
    pub step: u64,
}

/// A value inside another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub of: ValueId,
    /// First byte.
    pub offset: u64,
    pub pitch: Option<Pitch>,
}

/// The parts of a graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    inside: Vec<Option<Part>>,
}

impl Parts {
    /// The value with memory of its own that `id` lies in, with the first byte, and the gaps between rows.
    pub fn root(&self, mut id: ValueId) -> Part {
        let (mut offset, mut pitch) = (0, None);
        while let Some(part) = self.inside[id.0 as usize] {
            offset += part.offset;
            pitch = pitch.or(part.pitch);
            id = part.of;
        }
        Part {
            of: id,
            offset,
            pitch,
        }
    }

    /// Whether a value lies in another.
    pub fn is_part(&self, id: ValueId) -> bool {
        self.inside[id.0 as usize].is_some()
    }

    /// Whether a value lies in `of` itself, as a view that costs nothing does; one that is copied may lie elsewhere, in a concatenation.
    pub fn is_inside(&self, id: ValueId, of: ValueId) -> bool {
        self.inside[id.0 as usize].is_some_and(|part| part.of == of)
    }

    /// Finds them.
    pub fn of(graph: &Graph) -> Parts {
        let mut finder = Finder {
            graph,
            readers: readers(graph),
            makers: made_by(graph),
            parts: Parts {
                inside: vec![None; graph.values.len()],
            },
        };
        for node in &graph.nodes {
            match &node.op {
                Op::Layout(view) => finder.view(view, node.inputs[0], node.outputs[0]),
                Op::Concat { axis } => finder.concat(*axis, &node.inputs, node.outputs[0]),
                _ => {}
            }
        }
        finder.parts
    }
}

/// Nodes that read each value, with the operand.
fn readers(graph: &Graph) -> Vec<Vec<(usize, usize)>> {
    let mut all = vec![Vec::new(); graph.values.len()];
    for (n, node) in graph.nodes.iter().enumerate() {
        for (i, id) in node.inputs.iter().enumerate() {
            all[id.0 as usize].push((n, i));
        }
    }
    all
}

struct Finder<'a> {
    graph: &'a Graph,
    readers: Vec<Vec<(usize, usize)>>,
    makers: Vec<Option<usize>>,
    parts: Parts,
}

impl Finder<'_> {
    fn view(&mut self, view: &View, of: ValueId, result: ValueId) {
        let bits = u64::from(self.graph[of].dtype.bits());
        let Some(start) = view
            .offset
            .checked_mul(bits)
            .filter(|b| b.is_multiple_of(8))
        else {
            return;
        };
        let Some((cols, step)) = rows(view) else {
            return;
        };
        let pitch = (cols != step).then_some(Pitch { cols, step });
        // The whole of something with gaps has the same gaps; other views of it are not told apart here.
        let outer = self.parts.root(of).pitch;
        let whole = self.graph[of].elements() == self.graph[result].elements();
        let fits = match (outer, pitch) {
            (None, None) => true,
            (None, Some(p)) => {
                let read = self.read_by_rows(result, p.cols) || self.read_as_v_in_k(result);
                bits.is_multiple_of(8) && read
            }
            (Some(_), None) => whole,
            (Some(_), Some(_)) => false,
        };
        if fits {
            self.parts.inside[result.0 as usize] = Some(Part {
                of,
                offset: start / 8,
                pitch,
            });
        }
    }

    fn concat(&mut self, axis: usize, operands: &[ValueId], result: ValueId) {
        let shape = &self.graph[result].shape;
        let bits = u64::from(self.graph[result].dtype.bits());
        let outer = elements(&shape[..axis]);
        let step = elements(&shape[axis..]);
        let mut first = 0u64;
        for operand in operands {
            let cols = elements(&self.graph[*operand].shape[axis..]);
            let (at, pitch) = (first * bits, (outer > 1).then_some(Pitch { cols, step }));
            first += cols;
            let maker = self.maker(*operand);
            let plain = at.is_multiple_of(8) && (cols * bits).is_multiple_of(8);
            // A part already, or made of parts: it is copied.
            let Some(maker) = maker.filter(|m| plain && *m != result && !self.parts.is_part(*m))
            else {
                continue;
            };
            let fits = match pitch {
                None => true,
                // What is given for a run is laid out by whoever sets it.
                Some(_) if self.graph[maker].kind == Kind::Input => {
                    self.readers[maker.0 as usize].len() == 1 && maker == *operand
                }
                Some(p) => self.written_by_rows(maker, p.cols) && self.read_by_rows(maker, p.cols),
            };
            if fits {
                self.parts.inside[maker.0 as usize] = Some(Part {
                    of: result,
                    offset: at / 8,
                    pitch,
                });
            }
        }
    }

    /// The value with memory of its own that `id` is the whole of.
    fn maker(&self, mut id: ValueId) -> Option<ValueId> {
        while let Some(part) = self.parts.inside[id.0 as usize] {
            if part.pitch.is_some() || self.graph[part.of].elements() != self.graph[id].elements() {
                return None;
            }
            id = part.of;
        }
        Some(id)
    }

    /// Whether all who read a value take rows of `cols` elements with gaps: row-wise programs, views of the whole whose readers do,
    /// and concatenations, which copy.
    fn read_by_rows(&self, id: ValueId, cols: u64) -> bool {
        self.graph[id].kind == Kind::Intermediate
            && self.readers[id.0 as usize].iter().all(|(n, i)| {
                let node = &self.graph.nodes[*n];
                match &node.op {
                    Op::Rowwise(program) => {
                        program.cols == cols && program.inputs[*i].spread == Spread::Full
                    }
                    Op::Epilogue(program) => {
                        let input = program.inputs.get(*i - 1).filter(|_| *i >= 2);
                        program.cols == cols && input.is_some_and(|i| i.spread == Spread::Full)
                    }
                    Op::Layout(view) => {
                        let count = self.graph[id].elements();
                        view.is_alias(count) && self.read_by_rows(node.outputs[0], cols)
                    }
                    // A copy needs an axis that goes from row to row.
                    Op::Concat { .. } => {
                        let shape = &self.graph[id].shape;
                        (0..shape.len()).any(|axis| elements(&shape[axis..]) == cols)
                    }
                    _ => false,
                }
            })
    }

    /// Whether all who read a value take it as the V that lies in their K.
    fn read_as_v_in_k(&self, id: ValueId) -> bool {
        let value = &self.graph[id];
        value.kind == Kind::Intermediate
            && self.readers[id.0 as usize].iter().all(|(n, i)| {
                let node = &self.graph.nodes[*n];
                *i == 2
                    && matches!(node.op, Op::Attention(_))
                    && v_in_k(self.graph, &self.makers, node)
            })
    }

    /// Whether a row-wise program of `cols` columns makes a value.
    fn written_by_rows(&self, id: ValueId, cols: u64) -> bool {
        let maker = self.makers[id.0 as usize].and_then(|n| {
            let node = &self.graph.nodes[n];
            let at = node.outputs.iter().position(|o| *o == id)?;
            Some((&node.op, at))
        });
        match maker {
            Some((Op::Rowwise(program), at)) => {
                program.cols == cols && program.outputs[at].spread == Spread::Full
            }
            Some((Op::Epilogue(program), _)) => program.cols == cols,
            _ => false,
        }
    }
}

/// A view as rows of contiguous elements at one distance: elements of a row, and from a row to the next; equal without gaps.
fn rows(view: &View) -> Option<(u64, u64)> {
    let total = elements(&view.shape);
    let plain = contiguous(&view.shape);
    // Axes of one element go anywhere.
    let axes: Vec<(u64, i64, i64)> = view
        .shape
        .iter()
        .zip(view.strides.iter().zip(&plain))
        .filter(|(extent, _)| **extent > 1)
        .map(|(extent, (stride, plain))| (*extent, *stride, *plain))
        .collect();
    let inner = axes.iter().rev().take_while(|(_, s, p)| s == p).count();
    let cols: u64 = axes[axes.len() - inner..].iter().map(|a| a.0).product();
    if cols == total {
        return Some((total, total));
    }
    // The outer ones must walk rows at one distance.
    let outer = &axes[..axes.len() - inner];
    let step = u64::try_from(outer.last()?.1).ok().filter(|s| *s >= cols)?;
    let mut want = step as i64;
    for (extent, stride, _) in outer.iter().rev() {
        if *stride != want {
            return None;
        }
        want = want.checked_mul(*extent as i64)?;
    }
    Some((cols, step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_that_are_rows() {
        let shape = [2, 3, 8];
        assert_eq!(rows(&View::reshape(&shape)), Some((48, 48)));
        assert_eq!(rows(&View::slice(&shape, 0, 1, 1, 1)), Some((24, 24)));
        assert_eq!(rows(&View::slice(&shape, 2, 4, 1, 4)), Some((4, 8)));
        assert_eq!(rows(&View::slice(&shape, 1, 1, 1, 2)), Some((16, 24)));
        assert_eq!(rows(&View::slice(&shape, 2, 0, 2, 4)), Some((1, 2)));
        assert_eq!(rows(&View::transpose(&shape, &[1, 0, 2])), None);
        assert_eq!(rows(&View::slice(&shape, 2, 7, -1, 4)), None);
    }
}
