//! Tensor unit operations: matrix products into the accumulator RAM, and the ways in and out of it.
//!
//! Models: operand storage orders, decoding, the accumulation rule of [`crate::num::gemm`] with K-blocks of 32, or of 8
//! for BF16, block scales from their arrays, the chip's mode of accumulation. Leaves out: block steps and ports. Invariant:
//! operands were checked when the operation was pushed.

use crate::chip::cost;
use crate::isa::{AOrder, BOrder, Dtype, MmMode, ScaleType};
use crate::machine::memory::Memory;
use crate::machine::op::{AccOp, MmOp, ScaleArray};
use crate::machine::state::Accumulators;
use crate::machine::trap::TrapKind;
use crate::num::dot::Accumulate;
use crate::num::gemm::{self, Scales};
use crate::num::{Overflow, Rounding, decode_slice, encode_slice};

/// `mm`: `C[m,n] = A[m,k] B[k,n]`, or `C += A B`, with its block scales; sums by `accumulate`, the chip's mode. Without data nothing
/// happens.
///
/// # Errors
/// A range outside `tsram`, which only a wrong `tsram` can cause.
pub fn mm(
    op: &MmOp,
    tsram: &Memory,
    acc: &mut Accumulators,
    accumulate: Accumulate,
) -> Result<(), TrapKind> {
    if tsram.layout().is_some() {
        return Ok(());
    }
    let (m, n, k) = (op.m as usize, op.n as usize, op.k as usize);
    let a = match op.a_order {
        AOrder::Mk => load(tsram, op.ta, op.a, op.lda, m, k)?,
        AOrder::Km => transpose(&load(tsram, op.ta, op.a, op.lda, k, m)?, k, m),
    };
    let b = match op.b_order {
        BOrder::Kn => load(tsram, op.tb, op.b, op.ldb, k, n)?,
        BOrder::Nk => transpose(&load(tsram, op.tb, op.b, op.ldb, n, k)?, n, k),
    };
    let mut c = match op.mode {
        MmMode::New => vec![0.0; m * n],
        MmMode::Acc => acc.read(op.acc, m, n),
    };
    let (codes_a, codes_b) = (
        load_scales(tsram, &op.scale_a, m, k)?,
        load_scales(tsram, &op.scale_b, n, k)?,
    );
    let sa = scales(&op.scale_a, &codes_a);
    let sb = scales(&op.scale_b, &codes_b);
    let kblock = cost::kblock(op.ta, op.tb) as usize;
    match (accumulate, sa, sb) {
        (Accumulate::Exact, Scales::One, Scales::One) => {
            gemm::accumulate(&mut c, n, &a, &b, m, n, k, kblock);
        }
        (Accumulate::Exact, ..) => {
            gemm::accumulate_scaled(&mut c, n, (&a, sa), (&b, sb), m, n, k);
        }
        _ => gemm::accumulate_blocks(&mut c, n, (&a, sa), (&b, sb), m, n, k, kblock, accumulate),
    }
    acc.write(op.acc, m, n, &c);
    Ok(())
}

/// `mm.load`: accumulator blocks from a matrix in TSRAM. Without data nothing happens.
///
/// # Errors
/// As [`mm`].
pub fn mm_load(op: &AccOp, tsram: &Memory, acc: &mut Accumulators) -> Result<(), TrapKind> {
    if tsram.layout().is_some() {
        return Ok(());
    }
    let (m, n) = (op.m as usize, op.n as usize);
    let values = load(tsram, op.dtype, op.addr, op.ld, m, n)?;
    acc.write(op.acc, m, n, &values);
    Ok(())
}

/// `mm.store`: accumulator blocks to a matrix in TSRAM, encoded RNE saturating.
///
/// # Errors
/// The host memory limit; without data, a matrix that overlaps a control tensor.
pub fn mm_store(op: &AccOp, tsram: &mut Memory, acc: &Accumulators) -> Result<(), TrapKind> {
    let (m, n) = (op.m as usize, op.n as usize);
    let row_bytes = op.dtype.bytes_for(u64::from(op.n));
    if let Some(layout) = tsram.layout() {
        for row in 0..u64::from(op.m) {
            let start = op.addr + row * op.ld;
            if let Some(to) = layout.control(tsram.space(), start, start + row_bytes) {
                return Err(TrapKind::PayloadToControl {
                    from: "accumulators".to_owned(),
                    to: to.name.clone(),
                });
            }
        }
        return Ok(());
    }
    let values = acc.read(op.acc, m, n);
    let mut bytes = vec![0; row_bytes as usize];
    for (row, values) in values.chunks_exact(n).enumerate() {
        let (rne, saturate) = (Rounding::Rne, Overflow::Saturate);
        encode_slice(op.dtype, values, &mut bytes, rne, saturate);
        tsram.write(op.addr + row as u64 * op.ld, &bytes)?;
    }
    Ok(())
}

/// A stored matrix, decoded, row-major.
fn load(
    tsram: &Memory,
    dtype: Dtype,
    offset: u64,
    ld: u64,
    rows: usize,
    cols: usize,
) -> Result<Vec<f32>, TrapKind> {
    let mut values = vec![0.0; rows * cols];
    let mut bytes = vec![0; dtype.bytes_for(cols as u64) as usize];
    for (row, values) in values.chunks_exact_mut(cols).enumerate() {
        tsram.read(offset + row as u64 * ld, &mut bytes)?;
        decode_slice(dtype, &bytes, values);
    }
    Ok(values)
}

/// The codes of an operand's scales, blocks of `lanes` codes one after the other.
fn load_scales(
    tsram: &Memory,
    array: &ScaleArray,
    lanes: usize,
    k: usize,
) -> Result<Vec<u8>, TrapKind> {
    let mut codes = vec![0; array.blocks(k as u64) as usize * lanes];
    for (block, codes) in codes.chunks_exact_mut(lanes).enumerate() {
        tsram.read(array.offset + block as u64 * array.ld, codes)?;
    }
    Ok(codes)
}

fn scales<'a>(array: &ScaleArray, codes: &'a [u8]) -> Scales<'a> {
    match array.scale {
        ScaleType::None => Scales::One,
        ScaleType::E8m0 => Scales::E8m0(codes),
        ScaleType::Ue4m3 => Scales::Ue4m3(codes),
    }
}

/// The `cols x rows` transpose of a `rows x cols` matrix.
fn transpose(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; rows * cols];
    for (row, values) in values.chunks_exact(cols).enumerate() {
        for (col, value) in values.iter().enumerate() {
            out[col * rows + row] = *value;
        }
    }
    out
}
