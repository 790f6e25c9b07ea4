//! N-dimensional strided copies: the one mechanism under layouts, concatenation, borders and in-place append.
//!
//! Models: a result whose parts come each from an operand, or are one value everywhere, by strides of any sign on the side of the
//! operand (0 repeats). Leaves out: conversion of types. Elements of 4 and 6 bits move where rows of the last axis are whole bytes
//! on both sides. Invariant: parts do not overlap in the result and an operand is not the result, so parts need no order; that
//! different parts do not overlap is the caller's to know, within a part it is checked.

use super::super::stage::{Site, Stage};
use super::super::{CompileError, graph::View};
use super::{Frame, copy_code, pieces};
use crate::compiler::graph::view::contiguous;
use crate::num::Dtype;

/// Where a part comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// This operand.
    Operand(usize),
    /// Elements of this code, in the low bits.
    Fill(u32),
}

/// A box of the result: `result[to + i . result_strides] = source[from + i . strides]` for all i in `shape`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub source: Source,
    /// First element in the operand; 0 for a fill.
    pub from: u64,
    pub shape: Vec<u64>,
    /// Elements of the operand between neighbours, for each axis; those of a fill do not matter.
    pub strides: Vec<i64>,
    /// First element in the result.
    pub to: u64,
    /// Elements of the result between neighbours, for each axis. None is 0, but for axes of one element.
    pub result_strides: Vec<i64>,
}

impl Part {
    /// A contiguous operand of `shape` as a box at `at` of a contiguous result of shape `into`.
    pub fn block(source: Source, shape: &[u64], into: &[u64], at: &[u64]) -> Part {
        let result_strides = contiguous(into);
        let places = at.iter().zip(&result_strides);
        Part {
            source,
            from: 0,
            shape: shape.to_vec(),
            strides: contiguous(shape),
            to: places.map(|(i, s)| i * s.unsigned_abs()).sum(),
            result_strides,
        }
    }
}

/// A copy. Tensors of its site: the operands by their numbers, then the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    pub dtype: Dtype,
    /// Operands: every number in `parts` is below it.
    pub operands: usize,
    pub parts: Vec<Part>,
}

impl Copy {
    /// [`crate::compiler::graph::Op::Layout`].
    pub fn view(dtype: Dtype, view: &View) -> Copy {
        let part = Part {
            source: Source::Operand(0),
            from: view.offset,
            shape: view.shape.clone(),
            strides: view.strides.clone(),
            to: 0,
            result_strides: contiguous(&view.shape),
        };
        Copy {
            dtype,
            operands: 1,
            parts: vec![part],
        }
    }

    /// [`crate::compiler::graph::Op::Concat`] of operands of these shapes, alike but for `axis`.
    pub fn concat(dtype: Dtype, axis: usize, shapes: &[&[u64]]) -> Copy {
        let mut into = shapes.first().map_or(Vec::new(), |s| s.to_vec());
        into[axis] = shapes.iter().map(|s| s[axis]).sum();
        let mut at = vec![0; into.len()];
        let parts = shapes.iter().enumerate().map(|(n, shape)| {
            let part = Part::block(Source::Operand(n), shape, &into, &at);
            at[axis] += shape[axis];
            part
        });
        Copy {
            dtype,
            parts: parts.collect(),
            operands: shapes.len(),
        }
    }

    /// [`crate::compiler::graph::Op::Pad`]: an operand of `shape` at `before` of a result of shape `into`, elements of `code` around it.
    ///
    /// The border is cut into two boxes for each axis, which do not overlap: those of axis a have the whole extent of the axes
    /// after it and the operand's of the axes before it.
    pub fn pad(dtype: Dtype, shape: &[u64], into: &[u64], before: &[u64], code: u32) -> Copy {
        let mut parts = vec![Part::block(Source::Operand(0), shape, into, before)];
        let (mut size, mut at) = (into.to_vec(), vec![0; into.len()]);
        for axis in 0..into.len() {
            let behind = before[axis] + shape[axis];
            for (first, extent) in [(0, before[axis]), (behind, into[axis] - behind)] {
                if extent > 0 {
                    (at[axis], size[axis]) = (first, extent);
                    parts.push(Part::block(Source::Fill(code), &size, into, &at));
                }
            }
            (at[axis], size[axis]) = (before[axis], shape[axis]);
        }
        Copy {
            dtype,
            operands: 1,
            parts,
        }
    }
}

impl std::fmt::Display for Copy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "copy {}", self.dtype)?;
        for (n, part) in self.parts.iter().enumerate() {
            f.write_str(if n == 0 { " " } else { " + " })?;
            match part.source {
                Source::Operand(o) => write!(f, "in{o}{:?}/{:?}", part.shape, part.strides)?,
                Source::Fill(code) => write!(f, "{code:#x}{:?}", part.shape)?,
            }
        }
        Ok(())
    }
}

/// Lowers a copy. Tensors: `in0`, `in1`, .. and `out`, bytes.
///
/// # Errors
/// A part whose strides, offsets or operand make no sense; rows of 4 or 6 bits that are no whole bytes; a site without room.
pub fn copy(op: &Copy, site: &Site) -> Result<Stage, CompileError> {
    let frame = Frame::new(op.to_string(), site, op.operands + 1)?;
    let mut parts = Vec::new();
    for (n, part) in op.parts.iter().enumerate() {
        let known = match part.source {
            Source::Operand(o) => o < op.operands,
            Source::Fill(_) => true,
        };
        if !known {
            let reason = format!("part {n} has an operand past the {} there are", op.operands);
            return Err(frame.no_plan(reason));
        }
        match pieces::axes(part, op.dtype) {
            Ok(Some(axes)) => parts.push((part.source, axes)),
            Ok(None) => {}
            Err(reason) => return Err(frame.no_plan(format!("part {n}: {reason}"))),
        }
    }
    copy_code::emit(op, &parts, frame)
}
