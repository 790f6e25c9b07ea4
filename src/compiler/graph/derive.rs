//! Constants that the host makes of other constants when their bytes are asked for: layouts, types, parts.
//!
//! Models: recipes over constants, evaluated on reading, so that a graph of transposed or split weights holds no bytes of its own and
//! the weights stay in their files. Leaves out: arithmetic of the model; the host lays initialisers out and changes their type, no
//! more. Invariants: what is made of an absent constant is absent; a recipe's source has as many bytes as its type and shape say.

use super::{Data, DataError, View, elements};
use crate::num::block::{
    MX_BLOCK, NVFP4_BLOCK, ScaleRule, amax, nvfp4_tensor_scale, quantise_mx, quantise_nvfp4,
};
use crate::num::e8m0_value;
use crate::num::{Dtype, Overflow, Rounding, decode_slice, encode_slice, pack_codes, unpack_codes};
use rayon::prelude::*;
use std::sync::Arc;

/// A constant that something is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub dtype: Dtype,
    pub shape: Vec<u64>,
    pub data: Data,
}

/// How bytes come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// Elements of the source as a view reads them.
    View(Source, View),
    /// Sources of one type, one after the other along an axis.
    Concat(Vec<Source>, usize),
    /// In another type, to nearest even, saturating.
    Cast(Source, Dtype),
    /// Term `.1` of the sum of BF16 numbers that the source is: 0 is the source rounded, 1 the rest rounded, 2 the rest of that.
    Part(Source, usize),
    /// Of [k, n], the column's elements over its [`Recipe::Scales`], in E4M3.
    Quantised(Source),
    /// Of [k, n], for each column the FP32 number that makes the largest element 448; 1 for a column of zeros.
    Scales(Source),
    /// Of [.., k, n], k a multiple of the block, the elements over [`Recipe::BlockScales`].
    Blocks(Source, Blocks),
    /// Of [.., k, n], the codes of scales, [.., k / block, n], of so many neighbours along k each.
    BlockScales(Source, Blocks),
    /// The FP32 number over which [`Blocks::Nvfp4`] of the source are, [1].
    TensorScale(Source),
    /// BF16 numbers of elements [.., k, n] and codes of E8M0 [.., blocks, n], the scales of k / blocks neighbours along k.
    Scaled(Source, Source),
    /// BF16 numbers of elements [rows, columns] times FP32 factors, one for each block of so many rows and columns.
    Tiled(Source, Source, [u64; 2]),
}

/// A format of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blocks {
    /// Elements of this type with a scale of E8M0 for 32, rounded up, so that nothing saturates.
    Mx(Dtype),
    /// E2M1 with a scale of UE4M3 for 16, under a tensor scale.
    Nvfp4,
}

impl Blocks {
    /// Type of the elements.
    pub fn dtype(self) -> Dtype {
        match self {
            Blocks::Mx(dtype) => dtype,
            Blocks::Nvfp4 => Dtype::E2m1,
        }
    }

    /// Elements that share a scale.
    pub fn size(self) -> usize {
        match self {
            Blocks::Mx(_) => MX_BLOCK,
            Blocks::Nvfp4 => NVFP4_BLOCK,
        }
    }
}

/// A recipe with the size of what it gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Derived {
    recipe: Recipe,
    bytes: u64,
}

impl Recipe {
    fn sources(&self) -> &[Source] {
        match self {
            Recipe::Concat(sources, _) => sources,
            // The scales are there if the elements are.
            Recipe::Scaled(source, _) | Recipe::Tiled(source, ..) => std::slice::from_ref(source),
            Recipe::View(source, _)
            | Recipe::Cast(source, _)
            | Recipe::Part(source, _)
            | Recipe::Quantised(source)
            | Recipe::Scales(source)
            | Recipe::Blocks(source, _)
            | Recipe::BlockScales(source, _)
            | Recipe::TensorScale(source) => std::slice::from_ref(source),
        }
    }

    /// Type and number of elements of what it gives.
    fn result(&self) -> (Dtype, u64) {
        let size = |s: &Source| elements(&s.shape);
        match self {
            Recipe::View(s, view) => (s.dtype, elements(&view.shape)),
            Recipe::Concat(sources, _) => (
                sources.first().map_or(Dtype::U8, |s| s.dtype),
                sources.iter().map(size).fold(0, u64::saturating_add),
            ),
            Recipe::Cast(s, dtype) => (*dtype, size(s)),
            Recipe::Part(s, _) => (Dtype::Bf16, size(s)),
            Recipe::Quantised(s) => (Dtype::E4m3, size(s)),
            Recipe::Scales(s) => (Dtype::F32, s.shape.last().copied().unwrap_or(1)),
            Recipe::Blocks(s, blocks) => (blocks.dtype(), size(s)),
            Recipe::BlockScales(s, blocks) => (Dtype::U8, size(s) / blocks.size() as u64),
            Recipe::TensorScale(_) => (Dtype::F32, 1),
            Recipe::Scaled(s, _) | Recipe::Tiled(s, ..) => (Dtype::Bf16, size(s)),
        }
    }

    /// A constant's data by this recipe.
    pub fn data(self) -> Data {
        if self.sources().iter().any(|s| s.data == Data::Absent) {
            return Data::Absent;
        }
        let (dtype, elements) = self.result();
        let bytes = dtype.bytes_for(elements);
        let recipe = self;
        Data::Derived(Arc::new(Derived { recipe, bytes }))
    }
}

impl Derived {
    /// Size of what it gives.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bytes.
    ///
    /// # Errors
    /// A source that cannot be read.
    pub fn read(&self) -> Result<Arc<[u8]>, DataError> {
        let made = match &self.recipe {
            Recipe::View(source, view) => {
                let (from, width) = codes(source)?;
                let mut to = vec![0; elements(&view.shape) as usize * width];
                match width {
                    1 => lay::<1>(view, &from, &mut to),
                    2 => lay::<2>(view, &from, &mut to),
                    _ => lay::<4>(view, &from, &mut to),
                }
                packed(source.dtype, to)
            }
            Recipe::Concat(sources, axis) => concat(sources, *axis)?,
            Recipe::Cast(source, dtype) => encoded(*dtype, &numbers(source)?),
            Recipe::Part(source, part) => {
                let mut rest = numbers(source)?;
                for _ in 0..*part {
                    rest.iter_mut().for_each(|x| *x -= bf16(*x));
                }
                encoded(Dtype::Bf16, &rest)
            }
            Recipe::Quantised(source) => {
                let mut all = numbers(source)?;
                let scales = scales(source, &all);
                for row in all.chunks_mut(scales.len().max(1)) {
                    row.iter_mut().zip(&scales).for_each(|(x, s)| *x /= s);
                }
                encoded(Dtype::E4m3, &all)
            }
            Recipe::Scales(source) => {
                let scales = scales(source, &numbers(source)?);
                encoded(Dtype::F32, &scales)
            }
            Recipe::Blocks(source, format) => packed(format.dtype(), blocks(source, *format)?.0),
            Recipe::BlockScales(source, format) => blocks(source, *format)?.1,
            Recipe::TensorScale(source) => encoded(Dtype::F32, &[tensor_scale(&numbers(source)?)]),
            Recipe::Scaled(source, scales) => scaled(source, scales)?,
            Recipe::Tiled(source, factors, [rows, columns]) => {
                let (mut values, factors) = (numbers(source)?, (numbers(factors)?, factors));
                let extent = |s: &Source| s.shape.last().map_or(1, |n| *n as usize).max(1);
                let (n, across) = (extent(source), extent(factors.1));
                for (i, line) in values.chunks_mut(n).enumerate() {
                    for (j, x) in line.iter_mut().enumerate() {
                        *x *= factors.0[i / *rows as usize * across + j / *columns as usize];
                    }
                }
                encoded(Dtype::Bf16, &values)
            }
        };
        Ok(made.into())
    }
}

/// A number rounded to BF16, to nearest even, saturating.
fn bf16(x: f32) -> f32 {
    let (dtype, rne) = (Dtype::Bf16, Rounding::Rne);
    crate::num::decode(dtype, crate::num::encode(dtype, x, rne, Overflow::Saturate))
}

/// How many BF16 numbers, at most, each of these is the exact sum of: 1 to 3, or `None` where three do not do.
pub fn parts(numbers: &[f32]) -> Option<usize> {
    let of = |x: &f32| {
        let mut rest = *x;
        for part in 1..=3 {
            rest -= bf16(rest);
            if rest == 0.0 {
                return Some(part);
            }
        }
        None
    };
    numbers.iter().try_fold(1, |most, x| Some(most.max(of(x)?)))
}

/// The numbers of a constant.
///
/// # Errors
/// As of reading it.
pub fn numbers(source: &Source) -> Result<Vec<f32>, DataError> {
    let bytes = source.data.read()?;
    let mut values = vec![0.0; elements(&source.shape) as usize];
    decode_slice(source.dtype, &bytes, &mut values);
    Ok(values)
}

fn encoded(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; dtype.bytes_for(values.len() as u64) as usize];
    let (rne, saturate) = (Rounding::Rne, Overflow::Saturate);
    encode_slice(dtype, values, &mut bytes, rne, saturate);
    bytes
}

/// A scale for each column of [k, n].
fn scales(source: &Source, values: &[f32]) -> Vec<f32> {
    let columns = source.shape.last().map_or(1, |n| *n as usize);
    let mut most = vec![0f32; columns];
    for row in values.chunks(columns.max(1)) {
        let pairs = most.iter_mut().zip(row);
        pairs.for_each(|(m, x)| *m = m.max(x.abs()));
    }
    let scale = |m: f32| match m > 0.0 {
        true => (m / 448.0).max(f32::MIN_POSITIVE),
        false => 1.0,
    };
    most.into_iter().map(scale).collect()
}

/// The tensor scale of NVFP4; 1 for a tensor of zeros.
fn tensor_scale(values: &[f32]) -> f32 {
    match nvfp4_tensor_scale(amax(values)) {
        0.0 => 1.0,
        scale => scale,
    }
}

/// Codes, one a byte, and scales of blocks along the last axis but one.
fn blocks(source: &Source, format: Blocks) -> Result<(Vec<u8>, Vec<u8>), DataError> {
    let values = numbers(source)?;
    let n = source.shape.last().map_or(1, |n| *n as usize).max(1);
    let (size, tensor) = (format.size(), tensor_scale(&values));
    let mut codes = vec![0; values.len()];
    let mut scales = vec![0; values.len() / size];
    let each = codes
        .par_chunks_mut(n * size)
        .zip(scales.par_chunks_mut(n))
        .zip(values.par_chunks(n * size));
    each.for_each(|((codes, scales), values)| {
        for (j, scale) in scales.iter_mut().enumerate() {
            let column: Vec<f32> = values.iter().skip(j).step_by(n).copied().collect();
            let mut made = [0; MX_BLOCK];
            let made = &mut made[..column.len()];
            *scale = match format {
                Blocks::Mx(dtype) => quantise_mx(dtype, ScaleRule::Rceil, &column, made).scale,
                Blocks::Nvfp4 => quantise_nvfp4(tensor, &column, made).scale,
            };
            for (code, made) in codes.iter_mut().skip(j).step_by(n).zip(made) {
                *code = *made;
            }
        }
    });
    Ok((codes, scales))
}

/// BF16 numbers of elements and their scales.
fn scaled(source: &Source, scales: &Source) -> Result<Vec<u8>, DataError> {
    let mut values = numbers(source)?;
    let codes = scales.data.read()?;
    let extent = |s: &Source, back: usize| {
        let axis = s.shape.len().checked_sub(back);
        axis.map_or(1, |a| s.shape[a] as usize).max(1)
    };
    let (k, n, blocks) = (extent(source, 2), extent(source, 1), extent(scales, 2));
    let block = k / blocks.min(k);
    for (row, values) in values.chunks_mut(n).enumerate() {
        let (matrix, at) = (row / k, row % k / block);
        let codes = &codes[(matrix * blocks + at) * n..][..values.len()];
        for (x, code) in values.iter_mut().zip(codes) {
            *x *= e8m0_value(*code);
        }
    }
    Ok(encoded(Dtype::Bf16, &values))
}

/// The bytes of a constant, elements of less than a byte in one each, and the bytes of an element.
fn codes(source: &Source) -> Result<(Arc<[u8]>, usize), DataError> {
    let bytes = source.data.read()?;
    if source.dtype.bits() >= 8 {
        return Ok((bytes, source.dtype.bits() as usize / 8));
    }
    let mut codes = vec![0; elements(&source.shape) as usize];
    unpack_codes(source.dtype, &bytes, &mut codes);
    Ok((codes.into(), 1))
}

/// Undoes [`codes`].
fn packed(dtype: Dtype, codes: Vec<u8>) -> Vec<u8> {
    if dtype.bits() >= 8 {
        return codes;
    }
    let mut bytes = vec![0; dtype.bytes_for(codes.len() as u64) as usize];
    pack_codes(dtype, &codes, &mut bytes);
    bytes
}

/// Rows and columns of a block of the last two axes: both sides of a transpose stay in the cache.
const BLOCK: u64 = 32;

/// Copies elements of W bytes as a view reads them, bands of rows side by side on the host's threads.
fn lay<const W: usize>(view: &View, from: &[u8], to: &mut [u8]) {
    // Two axes at least.
    let rank = view.shape.len();
    let axis = |back: usize| match rank.checked_sub(back) {
        Some(a) => (view.shape[a], view.strides[a]),
        None => (1, 0),
    };
    let ((rows, down), (columns, right)) = (axis(2), axis(1));
    let outer = View {
        shape: view.shape[..rank.saturating_sub(2)].to_vec(),
        strides: view.strides[..rank.saturating_sub(2)].to_vec(),
        offset: view.offset,
    };
    let size = (rows * columns) as usize * W;
    let blocks = |n: u64| (0..n).step_by(BLOCK as usize);
    for (start, to) in outer.indices().zip(to.chunks_mut(size.max(1))) {
        let at = |i: u64, j: u64| (start as i64 + down * i as i64 + right * j as i64) as usize * W;
        let line = columns as usize * W;
        // Rows that lie as they are read are copied whole.
        if right == 1 {
            for (i, row) in (0..rows).zip(to.chunks_mut(line)) {
                row.copy_from_slice(&from[at(i, 0)..][..line]);
            }
            continue;
        }
        let bands = to.par_chunks_mut(line * BLOCK as usize).enumerate();
        bands.for_each(|(band, to)| {
            let i0 = band as u64 * BLOCK;
            for j0 in blocks(columns) {
                for (i, row) in (i0..rows).zip(to.chunks_mut(line)) {
                    for j in j0..columns.min(j0 + BLOCK) {
                        let (place, into) = (at(i, j), j as usize * W);
                        row[into..into + W].copy_from_slice(&from[place..place + W]);
                    }
                }
            }
        });
    }
}

fn concat(sources: &[Source], axis: usize) -> Result<Vec<u8>, DataError> {
    let Some(first) = sources.first() else {
        return Ok(Vec::new());
    };
    let parts: Vec<(Arc<[u8]>, usize)> = sources.iter().map(codes).collect::<Result<_, _>>()?;
    let outer = elements(&first.shape[..axis]) as usize;
    let mut all = Vec::with_capacity(parts.iter().map(|(bytes, _)| bytes.len()).sum());
    for at in 0..outer {
        for (bytes, _) in &parts {
            let inner = bytes.len() / outer;
            all.extend_from_slice(&bytes[at * inner..(at + 1) * inner]);
        }
    }
    Ok(packed(first.dtype, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(dtype: Dtype, shape: &[u64], values: &[f32]) -> Source {
        Source {
            dtype,
            shape: shape.to_vec(),
            data: Data::Bytes(encoded(dtype, values).into()),
        }
    }

    fn read(dtype: Dtype, count: usize, recipe: Recipe) -> Vec<f32> {
        let mut values = vec![0.0; count];
        decode_slice(dtype, &recipe.data().read().unwrap(), &mut values);
        values
    }

    #[test]
    fn views_of_every_width_are_laid_out() {
        let values: Vec<f32> = (0..70 * 33)
            .map(|i| [0.5, 1.0, 1.5, 2.0, 3.0, -4.0, -6.0][i % 7])
            .collect();
        for dtype in [
            Dtype::E2m1,
            Dtype::E2m3,
            Dtype::E4m3,
            Dtype::Bf16,
            Dtype::F32,
        ] {
            for view in [
                View::transpose(&[70, 33], &[1, 0]),
                View::slice(&[70, 33], 0, 69, -2, 30),
                View::slice(&[70, 33], 1, 1, 3, 10),
                View::reshape(&[70 * 33]),
                View::expand(&[70, 33], &[2, 70, 33]).unwrap(),
            ] {
                let want: Vec<f32> = view.indices().map(|i| values[i as usize]).collect();
                let of = source(dtype, &[70, 33], &values);
                let got = read(dtype, want.len(), Recipe::View(of, view));
                assert_eq!(got, want, "{dtype}");
            }
        }
    }

    #[test]
    fn parts_add_up_exactly() {
        let values = [1.0f32 / 3.0, -1e10, 3.402_823_5e38, 1.000_000_1, 0.0, 256.0];
        let of = || source(Dtype::F32, &[6], &values);
        let part = |i| read(Dtype::Bf16, 6, Recipe::Part(of(), i));
        let (hi, mid, lo) = (part(0), part(1), part(2));
        for i in 0..6 {
            let sum = f64::from(hi[i]) + f64::from(mid[i]) + f64::from(lo[i]);
            assert_eq!(sum, f64::from(values[i]));
        }
        assert_eq!(parts(&values), Some(3));
        assert_eq!(parts(&[1.0, -256.0, 0.0]), Some(1));
        assert_eq!(parts(&[1.0, 257.0]), Some(2));
        assert_eq!(parts(&[f32::NAN]), None);
    }

    #[test]
    fn columns_are_scaled_to_the_largest_number_of_e4m3() {
        let of = || source(Dtype::F32, &[2, 3], &[1.0, 0.0, -896.0, -2.0, 0.0, 448.0]);
        assert_eq!(
            read(Dtype::F32, 3, Recipe::Scales(of())),
            [2.0 / 448.0, 1.0, 2.0]
        );
        assert_eq!(
            read(Dtype::E4m3, 6, Recipe::Quantised(of())),
            [224.0, 0.0, -448.0, -448.0, 0.0, 224.0]
        );
    }

    #[test]
    fn blocks_and_their_scales_give_the_numbers_back() {
        // Two matrices of two blocks by three columns, of powers of two that E4M3 holds under any scale.
        let values: Vec<f32> = (0..2 * 64 * 3)
            .map(|i| 2f32.powi(i % 5 - 2) * if i % 7 == 0 { -448.0 } else { 1.0 })
            .collect();
        let of = Source {
            shape: vec![2, 64, 3],
            ..source(Dtype::F32, &[2 * 64 * 3], &values)
        };
        let made = |recipe: Recipe, dtype, shape: &[u64]| Source {
            dtype,
            shape: shape.to_vec(),
            data: recipe.data(),
        };
        let codes = made(
            Recipe::Blocks(of.clone(), Blocks::Mx(Dtype::E4m3)),
            Dtype::E4m3,
            &[2, 64, 3],
        );
        let scales = made(
            Recipe::BlockScales(of, Blocks::Mx(Dtype::E4m3)),
            Dtype::U8,
            &[2, 2, 3],
        );
        let largest = |at: usize| {
            values[at..]
                .iter()
                .step_by(3)
                .take(32)
                .fold(0f32, |m, x| m.max(x.abs()))
        };
        let bytes = scales.data.read().unwrap();
        for (i, code) in bytes.iter().enumerate() {
            let amax = largest(i / 3 * 96 + i % 3);
            assert!(amax <= 448.0 * e8m0_value(*code) && amax > 224.0 * e8m0_value(*code));
        }
        let back = read(Dtype::Bf16, values.len(), Recipe::Scaled(codes, scales));
        assert_eq!(back, values);
    }

    #[test]
    fn nothing_is_made_of_what_is_absent() {
        let absent = Source {
            data: Data::Absent,
            ..source(Dtype::F32, &[1], &[0.0])
        };
        let both = vec![source(Dtype::F32, &[1], &[0.0]), absent];
        assert_eq!(Recipe::Concat(both, 0).data(), Data::Absent);
        let two = vec![
            source(Dtype::U8, &[2, 1], &[1.0, 3.0]),
            source(Dtype::U8, &[2, 2], &[5.0, 6.0, 7.0, 8.0]),
        ];
        let bytes = Recipe::Concat(two, 1).data().read().unwrap();
        assert_eq!(bytes[..], [1, 5, 6, 3, 7, 8]);
    }
}
