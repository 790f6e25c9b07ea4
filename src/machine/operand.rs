//! Operands of the tensor unit, captured and checked when an operation is pushed.
//!
//! Models: stored matrices, accumulator blocks, arrays of block scales. Leaves out: what the operation computes
//! ([`super::exec::tensor`]). Invariant: as [`super::push`]'s: an operation built here stays inside its memory and its blocks.

use super::core::{Core, CoreContext};
use super::op::{AccOp, MmOp, ScaleArray};
use super::place;
use super::push::counted;
use super::state::BLOCK;
use super::trap::TrapKind;
use crate::isa::image::Space;
use crate::isa::{AOrder, BOrder, Dtype, Inst, ScaleType};

/// Rows, length of a row in bytes and stride of a stored matrix.
struct Stored {
    what: &'static str,
    rows: u64,
    row_bytes: u64,
    ld: u64,
}

/// Checks a matrix in the own TSRAM and gives its offset.
fn matrix(ctx: &CoreContext, raw: u64, s: &Stored) -> Result<u64, TrapKind> {
    if s.ld < s.row_bytes {
        return Err(TrapKind::RowStride {
            what: s.what,
            ld: s.ld,
            row: s.row_bytes,
        });
    }
    let offset = place::own_sram(ctx.chip, ctx.unit, raw)?;
    let first = i128::from(offset);
    let end = first + i128::from(s.rows - 1) * i128::from(s.ld) + i128::from(s.row_bytes);
    place::range(ctx.chip, Space::Tsram, first, end)?;
    Ok(offset)
}

/// Checks the blocks of an `m x n` matrix from block `first` on.
fn blocks(ctx: &CoreContext, first: u64, m: u64, n: u64) -> Result<u32, TrapKind> {
    let block = BLOCK as u64;
    let count = u128::from(m.div_ceil(block)) * u128::from(n.div_ceil(block));
    let blocks = ctx.chip.ttu.accumulator_blocks;
    if u128::from(first) + count > u128::from(blocks) {
        return Err(TrapKind::Accumulator {
            first,
            count,
            blocks,
        });
    }
    Ok(first as u32)
}

/// Resolves the staged scales of an operand with `lanes` rows (A) or columns (B).
fn operand_scales(
    ctx: &CoreContext,
    staged: Option<ScaleArray>,
    what: &'static str,
    dtype: Dtype,
    lanes: u64,
    k: u64,
) -> Result<ScaleArray, TrapKind> {
    let Some(array) = staged.filter(|array| array.scale != ScaleType::None) else {
        return Ok(ScaleArray::NONE);
    };
    let (scale, needed, taken) = match array.scale {
        ScaleType::Ue4m3 => ("ue4m3", "e2m1", dtype == Dtype::E2m1),
        _ => ("e8m0", "a type of up to 8 bits", dtype.bits() <= 8),
    };
    if !taken {
        return Err(TrapKind::ScaleOf {
            scale,
            dtype,
            needed,
        });
    }
    let stored = Stored {
        what,
        rows: array.blocks(k),
        row_bytes: lanes,
        ld: array.ld,
    };
    let offset = matrix(ctx, array.offset, &stored)?;
    Ok(ScaleArray { offset, ..array })
}

/// The operation of an `mm`, with the scales staged for it.
pub(super) fn mm(core: &Core, inst: &Inst, ctx: &CoreContext) -> Result<MmOp, TrapKind> {
    let Inst::Mm {
        mode,
        ta,
        tb,
        oa,
        ob,
        acc,
        a,
        b,
        m,
        n,
        k,
        lda,
        ldb,
    } = *inst
    else {
        return Err(TrapKind::VectorInControl);
    };
    if (ta == Dtype::Bf16) != (tb == Dtype::Bf16) {
        return Err(TrapKind::MixedBf16 { a: ta, b: tb });
    }
    let limit = u64::from(u32::MAX);
    let m = counted("m", core.reg(m), limit)?;
    let n = counted("n", core.reg(n), limit)?;
    let k = counted("k", core.reg(k), limit)?;
    let acc = blocks(ctx, core.reg(acc), m, n)?;
    let stored = |what, ld, dtype: Dtype, rows, cols| Stored {
        what,
        rows,
        row_bytes: dtype.bytes_for(cols),
        ld,
    };
    let (lda, ldb) = (core.reg(lda), core.reg(ldb));
    let sa = match oa {
        AOrder::Mk => stored("lda", lda, ta, m, k),
        AOrder::Km => stored("lda", lda, ta, k, m),
    };
    let sb = match ob {
        BOrder::Kn => stored("ldb", ldb, tb, k, n),
        BOrder::Nk => stored("ldb", ldb, tb, n, k),
    };
    let staged = core.staged.scales;
    let [scale_a, scale_b] = [
        ("lda of the scales", ta, m, staged.map(|s| s[0])),
        ("ldb of the scales", tb, n, staged.map(|s| s[1])),
    ]
    .map(|(what, dtype, lanes, array)| operand_scales(ctx, array, what, dtype, lanes, k));
    Ok(MmOp {
        scale_a: scale_a?,
        scale_b: scale_b?,
        mode,
        ta,
        tb,
        a_order: oa,
        b_order: ob,
        acc,
        a: matrix(ctx, core.reg(a), &sa)?,
        b: matrix(ctx, core.reg(b), &sb)?,
        m: m as u32,
        n: n as u32,
        k: k as u32,
        lda,
        ldb,
    })
}

/// The operation of an `mm.load` or `mm.store`: first block, address, rows, columns, stride.
pub(super) fn acc_op(
    ctx: &CoreContext,
    dtype: Dtype,
    [acc, addr, m, n, ld]: [u64; 5],
) -> Result<AccOp, TrapKind> {
    let m = counted("m", m, u64::from(u32::MAX))?;
    let n = counted("n", n, u64::from(u32::MAX))?;
    let stored = Stored {
        what: "ld",
        rows: m,
        row_bytes: dtype.bytes_for(n),
        ld,
    };
    Ok(AccOp {
        dtype,
        acc: blocks(ctx, acc, m, n)?,
        addr: matrix(ctx, addr, &stored)?,
        m: m as u32,
        n: n as u32,
        ld,
    })
}
