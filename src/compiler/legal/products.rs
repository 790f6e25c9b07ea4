//! Products in the shapes and types of the tensor unit.
//!
//! | matches | gives | why it is equal |
//! |---|---|---|
//! | axes in front of B of extent 1 | they are rows of A: A [m, k] by B [k, n] if none is left | rows do not see each other |
//! | equal axes in front of both | one batch axis | reshapes |
//! | axes in front that one operand lacks | batch extent 1; where it has others, repeated by a view | broadcasting |
//! | operands that BF16 holds ([`super::exact`]) | cast to BF16 | the cast is exact |
//! | operands of 2 or 3 BF16 terms | one product over K times the pairs of terms | see below |
//! | C in another type | C in FP32 and a cast | one rounding, after FP32's |
//! | [`Products::Bf16`] | operands cast to BF16 | asked for: 2^-8 of sum \|a\|\|b\| |
//! | [`Products::Blocks`], B a constant [k, n], k a multiple of 32 and a row of B whole bytes | B in blocks along K, A quantised to blocks as it is read ([`Narrow`]) | asked for |
//! | [`Products::Fp8`], B a constant | operands over scales in E4M3, C times the scales | asked for: 2^-3 of sum \|a\|\|b\| |
//!
//! Terms: a = a0 + a1 + a2, each the rest rounded to BF16, so that \|a1\| <= 2^-8 \|a\| and \|a2\| <= 2^-16 \|a\|, exactly for FP32. The
//! product of the sums leaves out a1 b2, a2 b1 and a2 b2, less than 2^-22.9 \|a\|\|b\| at worst and about 2^-26 on average; all that is
//! kept is one product: A' = [a0 a2 a1 ..] along K, B' likewise, small terms first. F16 by F16, of two terms each, leaves out
//! nothing. Terms of constants are made on the host.
//!
//! Blocks: what rows cost in accuracy is half a unit of their elements' type relative to the largest of a block. [`Narrow::Nvfp4`] divides each row by the number
//! that makes its largest element 448 x 6, so that UE4M3 reaches it, rounds to BF16, and multiplies C by that number and B's. [`Narrow::W4a16`], because the tensor
//! unit has no product of BF16 with blocks: a row x, in BF16, times the power of two that brings its largest element to 128 .. 256 is t0 + t1 / 16, t0 the
//! nearest E4M3 number and t1 the rest's. BF16 has 8 significant bits and E4M3 4 with a sign, so that is exact for all elements above 2^-13 of the row's largest and within
//! 2^-20 of that for the others. One product has t0 and t1 as rows of their own, so weights are read once. Grouped products are [`super::experts`]'. Leaves out: infinities, which a cast to BF16 makes the largest number of it.

use super::exact::{Exact, exact};
use super::rewrite::{Rewriter, rewrite};
use super::{Folded, LegalError, Narrow, Options, Products};
use crate::compiler::graph::{
    Graph, Matmul, Op, Recipe, Source, ValueId, View, elements, op::broadcast,
};
use crate::compiler::rowwise::{Binary, Reduce, Rowwise, Spread, Step, StepId, Ternary, Unary};
use crate::num::Dtype;
use rustc_hash::FxHashMap;

type Result<T> = std::result::Result<T, LegalError>;

/// Types whose products the tensor unit has.
const KEPT: [Dtype; 3] = [Dtype::Bf16, Dtype::E4m3, Dtype::E5m2];
/// Pairs of terms (of A, of B) that are kept, the smallest products first.
pub(super) const PAIRS: [(usize, usize); 6] = [(2, 0), (1, 1), (0, 2), (1, 0), (0, 1), (0, 0)];

/// The pass.
///
/// # Errors
/// Operands of less than a byte that are no constants; constants that cannot be read.
pub fn products(graph: &Graph, options: &Options, folded: &mut Folded) -> Result<Graph> {
    let exact = exact(graph)?;
    let mut forms = Forms::default();
    rewrite(graph, "products", folded, |r, _, node, operands| {
        if let Op::Grouped(op) = &node.op {
            let known = [0, 2].map(|i| exact[node.inputs[i].0 as usize]);
            let made = forms.grouped(r, op, operands, known, options.products)?;
            return Ok(Some(vec![made]));
        }
        let Op::Matmul(op) = &node.op else {
            return Ok(None);
        };
        let ([a, b], dtype) = ([operands[0], operands[1]], op.dtype);
        let known = [0, 1].map(|i| exact[node.inputs[i].0 as usize]);
        let made = forms.product(r, [a, b], known, dtype, options.products)?;
        Ok(Some(vec![made]))
    })
}

/// Operands in the forms of products, made once for all their users.
#[derive(Debug, Default)]
pub(super) struct Forms {
    terms: FxHashMap<(ValueId, usize, Vec<usize>), ValueId>,
    /// A in E4M3, and the scales of its rows.
    rows: FxHashMap<ValueId, (ValueId, ValueId)>,
    /// B in E4M3, and the scales of its columns.
    columns: FxHashMap<ValueId, (ValueId, Option<ValueId>)>,
    /// Constants in blocks, and their scales.
    pub(super) in_blocks: FxHashMap<ValueId, (ValueId, ValueId)>,
    /// Rows for [`Narrow::Nvfp4`] or [`Narrow::W4a16`], and their factors.
    scaled: FxHashMap<ValueId, (ValueId, ValueId)>,
}

impl Forms {
    fn product(
        &mut self,
        r: &mut Rewriter<'_>,
        [a, b]: [ValueId; 2],
        known: [Exact; 2],
        dtype: Dtype,
        products: Products,
    ) -> Result<ValueId> {
        let types = [r.new.dtype(a), r.new.dtype(b)];
        let wide = types.iter().any(|t| t.bits() > 8);
        let weights = r.source(b).is_some() && r.new.shape(b).len() == 2;
        if products == Products::Fp8 && wide && weights {
            return self.fp8(r, a, b, dtype);
        }
        if let (Products::Blocks(narrow), true, true) = (products, wide, weights)
            && fits(r.new.shape(b), narrow)
        {
            return self.narrow(r, a, b, dtype, narrow);
        }
        let stored = stored(dtype);
        let sum = if types[0] == types[1] && KEPT.contains(&types[0]) {
            multiply(r, a, b, stored)?
        } else {
            let terms = match products {
                Products::Faithful => known.map(|e| e.terms),
                _ => [1, 1],
            };
            let pairs = PAIRS.iter().filter(|(i, j)| *i < terms[0] && *j < terms[1]);
            let (of_a, of_b): (Vec<usize>, Vec<usize>) = pairs.copied().unzip();
            let last = [a, b].map(|id| r.new.shape(id).len() - 1);
            let a = self.terms(r, a, last[0], of_a)?;
            let b = self.terms(r, b, last[1] - 1, of_b)?;
            multiply(r, a, b, stored)?
        };
        Ok(r.new.cast(sum, dtype)?)
    }

    /// BF16 terms of an operand one after the other along an axis.
    pub(super) fn terms(
        &mut self,
        r: &mut Rewriter<'_>,
        x: ValueId,
        axis: usize,
        which: Vec<usize>,
    ) -> Result<ValueId> {
        if r.new.dtype(x) == Dtype::Bf16 && which == [0] {
            return Ok(x);
        }
        let key = (x, axis, which);
        if let Some(id) = self.terms.get(&key) {
            return Ok(*id);
        }
        let which = &key.2;
        let made = match r.source(x) {
            Some(source) => host_terms(r, x, source, axis, which)?,
            None => {
                bytes(r, x)?;
                let count = which.iter().max().map_or(1, |most| most + 1);
                let made = r.new.rows(None, &[x], |rows, steps| {
                    let terms = split(rows, steps[0], count);
                    let output = |step| (step, Dtype::Bf16, Spread::Full);
                    terms.into_iter().map(output).collect()
                })?;
                let parts: Vec<ValueId> = which.iter().map(|i| made[*i]).collect();
                r.new.concat(&parts, axis)?
            }
        };
        self.terms.insert(key, made);
        Ok(made)
    }

    /// A product with B in blocks along K.
    fn narrow(
        &mut self,
        r: &mut Rewriter<'_>,
        a: ValueId,
        b: ValueId,
        dtype: Dtype,
        narrow: Narrow,
    ) -> Result<ValueId> {
        let format = narrow.weights();
        let (codes, scales) = self.blocks(r, b, format)?;
        bytes(r, a)?;
        let shape = r.new.shape(a).to_vec();
        let (k, n) = (r.new.shape(b)[0], r.new.shape(b)[1]);
        let rows = elements(&shape) / k;
        let result = [&shape[..shape.len() - 1], &[n]].concat();
        let flat = r.layout(a, View::reshape(&[rows, k]))?;
        // What the DMA quantises.
        let flat = match r.new.dtype(flat) {
            Dtype::Bf16 | Dtype::F16 | Dtype::F32 => flat,
            _ => r.new.cast(flat, Dtype::Bf16)?,
        };
        let product = |r: &mut Rewriter<'_>, x, dtype, blocks| -> Result<ValueId> {
            let op = Matmul { dtype, blocks };
            Ok(r.new.matmul_scaled(op, [x, codes, scales])?)
        };
        let made = match narrow {
            Narrow::Mxfp8 | Narrow::Mxfp6 | Narrow::Mxfp4 | Narrow::W4a8 => {
                let blocks = match narrow {
                    Narrow::W4a8 => Dtype::E4m3,
                    _ => format.dtype(),
                };
                let sum = product(r, flat, stored(dtype), Some(blocks))?;
                r.new.cast(sum, dtype)?
            }
            Narrow::Nvfp4 => {
                let (x, scale) = match self.scaled.get(&a) {
                    Some(both) => *both,
                    None => nvfp4_rows(r, flat)?,
                };
                self.scaled.insert(a, (x, scale));
                let sum = product(r, x, Dtype::F32, Some(format.dtype()))?;
                let whole = match r.source(b) {
                    Some(source) => Recipe::TensorScale(source),
                    None => return Err(LegalError::form(&r.new.value(b).name, "no constant")),
                };
                let whole = r.derive(b, "tensor_scale", whole, Dtype::F32, &[1])?;
                let scale = r.layout(scale, View::reshape(&[rows, 1]))?;
                let made = r.new.rows(Some(1), &[sum, scale, whole], |rows, x| {
                    let factor = rows.binary(Binary::Mul, x[1], x[2]);
                    let y = rows.binary(Binary::Mul, x[0], factor);
                    vec![(y, dtype, Spread::Full)]
                })?;
                made[0]
            }
            Narrow::W4a16 => {
                let (terms, scale) = match self.scaled.get(&a) {
                    Some(both) => *both,
                    None => term_rows(r, flat)?,
                };
                self.scaled.insert(a, (terms, scale));
                let sums = product(r, terms, Dtype::F32, None)?;
                let both = [2 * rows, n];
                let first = r.layout(sums, View::slice(&both, 0, 0, 1, rows))?;
                let second = r.layout(sums, View::slice(&both, 0, rows, 1, rows))?;
                let scale = r.layout(scale, View::reshape(&[rows, 1]))?;
                let made = r.new.rows(Some(1), &[first, second, scale], |rows, x| {
                    let share = rows.constant(1.0 / 16.0);
                    let sum = rows.step(Step::Ternary(Ternary::Fma, x[1], share, x[0]));
                    let y = rows.binary(Binary::Mul, sum, x[2]);
                    vec![(y, dtype, Spread::Full)]
                })?;
                made[0]
            }
        };
        r.layout(made, View::reshape(&result))
    }

    /// A product in E4M3 with a scale for each row of A and each column of B.
    fn fp8(
        &mut self,
        r: &mut Rewriter<'_>,
        a: ValueId,
        b: ValueId,
        dtype: Dtype,
    ) -> Result<ValueId> {
        let (qa, sa) = match self.rows.get(&a) {
            Some(both) => *both,
            None => quantised_rows(r, a)?,
        };
        self.rows.insert(a, (qa, sa));
        let (qb, sb) = match (self.columns.get(&b), r.source(b)) {
            (Some(both), _) => *both,
            // In the type already: nothing to gain, and every other scale would round again.
            (None, _) if r.new.dtype(b) == Dtype::E4m3 => (b, None),
            (None, Some(source)) => {
                r.folded += 1;
                let shape = source.shape.clone();
                let of = source.clone();
                let q = r.derive(b, "e4m3", Recipe::Quantised(of), Dtype::E4m3, &shape)?;
                let scales = Recipe::Scales(source);
                let scales = r.derive(b, "scales", scales, Dtype::F32, &shape[1..])?;
                (q, Some(scales))
            }
            (None, None) => return Err(LegalError::form(&r.new.value(b).name, "no constant")),
        };
        self.columns.insert(b, (qb, sb));
        let sum = multiply(r, qa, qb, Dtype::F32)?;
        let split = r.new.shape(sum).len() - 1;
        let per_row = [r.new.shape(sa), &[1]].concat();
        let sa = r.layout(sa, View::reshape(&per_row))?;
        let operands: Vec<ValueId> = [sum, sa].into_iter().chain(sb).collect();
        let made = r.new.rows(Some(split), &operands, |rows, x| {
            let scales = x[1..].iter();
            let whole = scales.fold(x[0], |sum, s| rows.binary(Binary::Mul, sum, *s));
            vec![(whole, dtype, Spread::Full)]
        })?;
        Ok(made[0])
    }
}

/// The type in which the tensor unit stores a result.
fn stored(dtype: Dtype) -> Dtype {
    match dtype {
        Dtype::Bf16 => Dtype::Bf16,
        _ => Dtype::F32,
    }
}

/// Whether a constant [k, n] falls into blocks and its rows into bytes.
fn fits(shape: &[u64], narrow: Narrow) -> bool {
    let bits = u64::from(narrow.weights().dtype().bits());
    shape[0].is_multiple_of(32) && (shape[1] * bits).is_multiple_of(8)
}

/// Rows over their scales in BF16, and the scales: the largest element of a row becomes 448 x 6, the largest of NVFP4.
fn nvfp4_rows(r: &mut Rewriter<'_>, x: ValueId) -> Result<(ValueId, ValueId)> {
    let made = r.new.rows(Some(1), &[x], |rows, x| {
        let size = rows.unary(Unary::Abs, x[0]);
        let most = rows.reduce(Reduce::Max, size);
        let share = rows.constant(1.0 / (448.0 * 6.0));
        let least = rows.constant(f32::MIN_POSITIVE);
        let scale = rows.binary(Binary::Mul, most, share);
        let scale = rows.binary(Binary::Max, scale, least);
        let factor = rows.unary(Unary::Recip, scale);
        let y = rows.binary(Binary::Mul, x[0], factor);
        vec![
            (y, Dtype::Bf16, Spread::Full),
            (scale, Dtype::F32, Spread::PerRow),
        ]
    })?;
    Ok((made[0], made[1]))
}

/// Of rows in BF16 the E4M3 terms t0 and t1, one below the other, and what t0 + t1 / 16 is to be multiplied by.
fn term_rows(r: &mut Rewriter<'_>, x: ValueId) -> Result<(ValueId, ValueId)> {
    let made = r.new.rows(Some(1), &[x], |rows, x| {
        let x = rows.unary(Unary::Cast(Dtype::Bf16), x[0]);
        let size = rows.unary(Unary::Abs, x);
        let most = rows.reduce(Reduce::Max, size);
        // A row of zeros has some scale; 2^(7 + 100) is a number.
        let least = rows.constant(2f32.powi(-100));
        let most = rows.binary(Binary::Max, most, least);
        let log = rows.unary(Unary::Log2, most);
        let power = rows.unary(Unary::Floor, log);
        let seven = rows.constant(7.0);
        let up = rows.binary(Binary::Sub, seven, power);
        let down = rows.binary(Binary::Sub, power, seven);
        // Powers of two of integers are exact.
        let (up, down) = (rows.unary(Unary::Exp2, up), rows.unary(Unary::Exp2, down));
        let y = rows.binary(Binary::Mul, x, up);
        let first = rows.unary(Unary::Cast(Dtype::E4m3), y);
        let rest = rows.binary(Binary::Sub, y, first);
        let sixteen = rows.constant(16.0);
        let second = rows.binary(Binary::Mul, rest, sixteen);
        vec![
            (first, Dtype::E4m3, Spread::Full),
            (second, Dtype::E4m3, Spread::Full),
            (down, Dtype::F32, Spread::PerRow),
        ]
    })?;
    Ok((r.new.concat(&made[..2], 0)?, made[2]))
}

/// Refuses elements of less than a byte, which no row-wise program reads.
fn bytes(r: &Rewriter<'_>, x: ValueId) -> Result<()> {
    let value = r.new.value(x);
    if value.dtype.bits().is_multiple_of(8) {
        return Ok(());
    }
    let what = format!(
        "it is {}; products take elements of less than a byte from constants only",
        value.dtype
    );
    Err(LegalError::form(&value.name, what))
}

/// Steps of the first `count` BF16 terms of a step.
fn split(rows: &mut Rowwise, x: StepId, count: usize) -> Vec<StepId> {
    let mut rest = x;
    let mut terms = Vec::with_capacity(count);
    for i in 0..count {
        let term = rows.unary(Unary::Cast(Dtype::Bf16), rest);
        terms.push(term);
        if i + 1 < count {
            rest = rows.binary(Binary::Sub, rest, term);
        }
    }
    terms
}

/// As [`Forms::terms`] of a constant.
fn host_terms(
    r: &mut Rewriter<'_>,
    x: ValueId,
    source: Source,
    axis: usize,
    which: &[usize],
) -> Result<ValueId> {
    r.folded += 1;
    let term = |i: &usize| Source {
        dtype: Dtype::Bf16,
        data: Recipe::Part(source.clone(), *i).data(),
        shape: source.shape.clone(),
    };
    let mut shape = source.shape.clone();
    shape[axis] *= which.len() as u64;
    let recipe = match which {
        [one] => Recipe::Part(source.clone(), *one),
        _ => Recipe::Concat(which.iter().map(term).collect(), axis),
    };
    r.derive(x, "bf16", recipe, Dtype::Bf16, &shape)
}

/// Rows over their scales in E4M3, and the scales: the largest element of a row becomes 448.
fn quantised_rows(r: &mut Rewriter<'_>, x: ValueId) -> Result<(ValueId, ValueId)> {
    bytes(r, x)?;
    let split = r.new.shape(x).len() - 1;
    let made = r.new.rows(Some(split), &[x], |rows, x| {
        let size = rows.unary(Unary::Abs, x[0]);
        let most = rows.reduce(Reduce::Max, size);
        let share = rows.constant(1.0 / 448.0);
        let least = rows.constant(f32::MIN_POSITIVE);
        let scale = rows.binary(Binary::Mul, most, share);
        // A row of zeros has some scale.
        let scale = rows.binary(Binary::Max, scale, least);
        let factor = rows.unary(Unary::Recip, scale);
        let q = rows.binary(Binary::Mul, x[0], factor);
        vec![
            (q, Dtype::E4m3, Spread::Full),
            (scale, Dtype::F32, Spread::PerRow),
        ]
    })?;
    Ok((made[0], made[1]))
}

/// A product in one of the shapes that are left, and its result in the shape that it has.
fn multiply(r: &mut Rewriter<'_>, a: ValueId, b: ValueId, dtype: Dtype) -> Result<ValueId> {
    let (shape_a, shape_b) = (r.new.shape(a).to_vec(), r.new.shape(b).to_vec());
    let ([outer_a @ .., m, k], [outer_b @ .., _, n]) = (&shape_a[..], &shape_b[..]) else {
        // The node was checked: both have two axes.
        return Ok(r.new.matmul(a, b, dtype)?);
    };
    let full = broadcast(outer_a, outer_b).unwrap_or_default();
    let wide = |outer: &[u64]| [&vec![1; full.len() - outer.len()], outer].concat();
    let (outer_a, outer_b) = (wide(outer_a), wide(outer_b));
    // B is the same for the last axes in front: A's are rows.
    let same = outer_b.iter().rev().take_while(|extent| **extent == 1);
    let split = full.len() - same.count();
    let rows = elements(&full[split..]) * m;
    let batch = &full[..split];
    let front = |r: &mut Rewriter<'_>, x, outer: &[u64], rest: [u64; 2]| -> Result<ValueId> {
        let count = elements(outer);
        let repeat = count != 1 && count != elements(batch);
        let x = match repeat {
            true => {
                let apart = [outer, &rest].concat();
                let x = r.layout(x, View::reshape(&apart))?;
                let to = [batch, &rest].concat();
                // What is not 1 is as long as the batch's axis.
                let view = View::expand(&apart, &to).unwrap_or_else(|| View::reshape(&apart));
                r.layout(x, view)?
            }
            false => x,
        };
        let count = if repeat { elements(batch) } else { count };
        let shape = match elements(batch) {
            1 => rest.to_vec(),
            _ => vec![count, rest[0], rest[1]],
        };
        r.layout(x, View::reshape(&shape))
    };
    let a = front(r, a, &outer_a[..split], [rows, *k])?;
    let b = front(r, b, &outer_b[..split], [*k, *n])?;
    let c = r.new.matmul(a, b, dtype)?;
    let shape = [&full[..], &[*m, *n]].concat();
    r.layout(c, View::reshape(&shape))
}
