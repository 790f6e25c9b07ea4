//! Transfers: reading a range of elements in walk order, converted, and writing such a range.
//!
//! Models: `dma`, `dma.t` and the data of network operations, in ranges of elements so that a timed engine can commit as
//! data arrives. Leaves out: which engine moves what when. Invariant: a range starts and ends at multiples of
//! [`Transfer::granule`]; the bytes between [`read`] and [`write`] are elements of the destination type, packed in walk
//! order, then with `dma.q` the scales of their blocks.

use crate::chip::Chip;
use crate::isa::{Dtype, QuantRule};
use crate::machine::memory::Memory;
use crate::machine::op::{Quantise, Transfer, Walk, quant_block};
use crate::machine::place;
use crate::machine::trap::TrapKind;
use crate::num::block::{MX_BLOCK, ScaleRule, Scaled, quantise_mx, quantise_nvfp4};
use crate::num::{Overflow, Rounding, decode_slice, encode_slice, pack_codes};
use std::sync::Arc;

/// A range of elements on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Elements in the destination's type, then the scales of their blocks, if any.
    pub bytes: Vec<u8>,
    /// A NaN met FP4 or FP6, which have none.
    pub lost_nan: bool,
}

/// Elements `start .. start + len` of the walk, converted or quantised to the destination type and packed; `None` in a run without
/// data if any of them is not stored.
///
/// # Errors
/// A range outside `src`, which only a wrong `src` can cause.
pub fn read(t: &Transfer, start: u64, len: u64, src: &Memory) -> Result<Option<Moved>, TrapKind> {
    debug_assert_eq!(start % t.granule(), 0);
    debug_assert_eq!(len % t.granule(), 0);
    if src.layout().is_some() && !stored(t, start, len, src) {
        return Ok(None);
    }
    let mut out = vec![0; t.written_bytes(len) as usize];
    let (codes, mut scales) = out.split_at_mut(t.ddt.bytes_for(len) as usize);
    let (mut done, mut lost_nan) = (0, false);
    let mut convert = Convert::default();
    for piece in t.pieces(start, len) {
        let bytes = t.ddt.bytes_for(piece.elements) as usize;
        let out = &mut codes[done..done + bytes];
        done += bytes;
        let packed = t.sdt == t.ddt && piece.src_step.is_none();
        if packed {
            src.read(piece.src, out)?;
            continue;
        }
        let raw = convert.raw(t.sdt.bytes_for(piece.elements) as usize);
        match piece.src_step {
            None => src.read(piece.src, raw)?,
            Some(step) => {
                let size = t.sdt.bytes_for(1) as usize;
                for (element, to) in raw.chunks_exact_mut(size).enumerate() {
                    src.read(piece.src + element as u64 * step, to)?;
                }
            }
        }
        if t.sdt == t.ddt {
            out.copy_from_slice(raw);
        } else {
            convert.values.resize(piece.elements as usize, 0.0);
            decode_slice(t.sdt, &convert.raw, &mut convert.values);
            if let Some(q) = &t.quantise {
                let blocks = convert.values.len() / quant_block(q.rule);
                let (here, rest) = std::mem::take(&mut scales).split_at_mut(blocks);
                scales = rest;
                lost_nan |= quantise(q, t.ddt, &convert.values, out, here);
                continue;
            }
            let (rne, finite) = (Rounding::Rne, Overflow::Finite);
            let lost = encode_slice(t.ddt, &convert.values, out, rne, finite);
            lost_nan |= lost && t.ddt.is_float();
        }
    }
    let bytes = out;
    Ok(Some(Moved { bytes, lost_nan }))
}

/// Quantises whole blocks of a row to packed codes and scales; whether a NaN was lost.
fn quantise(
    q: &Quantise,
    dtype: Dtype,
    values: &[f32],
    packed: &mut [u8],
    scales: &mut [u8],
) -> bool {
    let block = quant_block(q.rule);
    let mut lost_nan = false;
    let mut codes = [0; MX_BLOCK];
    // Whole blocks of any type are whole bytes.
    let bytes = dtype.bytes_for(block as u64) as usize;
    let blocks = values
        .chunks_exact(block)
        .zip(packed.chunks_exact_mut(bytes));
    for ((values, packed), scale) in blocks.zip(scales) {
        let codes = &mut codes[..block];
        let done = quantise_block(q.rule, dtype, q.tensor_scale, values, codes);
        *scale = done.scale;
        lost_nan |= done.lost_nan;
        pack_codes(dtype, codes, packed);
    }
    lost_nan
}

/// One block by a rule, to one code a byte.
pub fn quantise_block(
    rule: QuantRule,
    dtype: Dtype,
    tensor_scale: u32,
    values: &[f32],
    codes: &mut [u8],
) -> Scaled {
    match rule {
        QuantRule::Floor => quantise_mx(dtype, ScaleRule::Floor, values, codes),
        QuantRule::Rceil => quantise_mx(dtype, ScaleRule::Rceil, values, codes),
        QuantRule::Nvfp4 => quantise_nvfp4(f32::from_bits(tensor_scale), values, codes),
    }
}

/// Writes elements `start .. start + len` of the walk, as [`read`] gave them.
///
/// # Errors
/// The host memory limit; without data (`None`), a destination that overlaps a control tensor.
pub fn write(
    t: &Transfer,
    start: u64,
    len: u64,
    dst: &mut Memory,
    data: Option<&[u8]>,
) -> Result<(), TrapKind> {
    let Some(data) = data else {
        return refuse_control(t, start, len, dst);
    };
    let mut done = 0;
    for piece in t.pieces(start, len) {
        let bytes = t.ddt.bytes_for(piece.elements) as usize;
        dst.write(piece.dst, &data[done..done + bytes])?;
        done += bytes;
    }
    for (offset, scale) in t.scale_offsets(start, len).zip(&data[done..]) {
        dst.write(offset, std::slice::from_ref(scale))?;
    }
    Ok(())
}

/// The transfer with the source offsets that its index table holds, checked against the size of the source memory.
/// Without a gather it is a plain copy.
///
/// # Errors
/// A row outside its memory; a table that a run without data does not store.
pub fn resolve_gather(t: &Transfer, local: &Memory, chip: &Chip) -> Result<Transfer, TrapKind> {
    let mut resolved = t.clone();
    let Walk::Rows {
        dims,
        gather: Some((table, stride)),
        ..
    } = &mut resolved.walk
    else {
        return Ok(resolved);
    };
    let mut bytes = vec![0; 4 * dims[0].count as usize];
    local.read(*table, &mut bytes).map_err(|kind| match kind {
        TrapKind::Payload { name, .. } => TrapKind::Payload {
            what: "`gather`",
            name,
        },
        other => other,
    })?;
    let (indices, _) = bytes.as_chunks::<4>();
    let stride = i128::from(*stride);
    // The extent of one iteration, to which each index adds its offset.
    let single = Transfer {
        walk: match t.walk {
            Walk::Rows { row, mut dims, .. } => {
                dims[0].count = 1;
                Walk::Rows {
                    row,
                    dims,
                    gather: None,
                }
            }
            Walk::Transpose { .. } => t.walk.clone(),
        },
        ..t.clone()
    };
    let (first, end) = single.src_extent();
    let space = t.src.place.space();
    let offsets: Result<Vec<i64>, TrapKind> = indices
        .iter()
        .map(|index| {
            let offset = i128::from(i32::from_le_bytes(*index)) * stride;
            place::range(chip, space, first + offset, end + offset)?;
            // In range of a memory of less than 2^40 bytes.
            Ok(offset as i64)
        })
        .collect();
    resolved.gathered = Some(Arc::from(offsets?));
    Ok(resolved)
}

/// Scratch of a conversion.
#[derive(Default)]
struct Convert {
    raw: Vec<u8>,
    values: Vec<f32>,
}

impl Convert {
    fn raw(&mut self, len: usize) -> &mut [u8] {
        self.raw.resize(len, 0);
        &mut self.raw
    }
}

fn stored(t: &Transfer, start: u64, len: u64, src: &Memory) -> bool {
    t.pieces(start, len).all(|piece| match piece.src_step {
        None => src.stores(piece.src, t.sdt.bytes_for(piece.elements)),
        Some(step) => {
            let size = t.sdt.bytes_for(1);
            (0..piece.elements).all(|e| src.stores(piece.src + e * step, size))
        }
    })
}

fn refuse_control(t: &Transfer, start: u64, len: u64, dst: &Memory) -> Result<(), TrapKind> {
    let Some(layout) = dst.layout() else {
        return Ok(());
    };
    for piece in t.pieces(start, len) {
        let end = piece.dst + t.ddt.bytes_for(piece.elements);
        if let Some(to) = layout.control(dst.space(), piece.dst, end) {
            let src_end = piece.src + t.sdt.bytes_for(1);
            return Err(TrapKind::PayloadToControl {
                from: layout.payload_name(t.src.place.space(), piece.src, src_end),
                to: to.name.clone(),
            });
        }
    }
    for offset in t.scale_offsets(start, len) {
        if let Some(to) = layout.control(dst.space(), offset, offset + 1) {
            return Err(TrapKind::PayloadToControl {
                from: "the scales of a payload".to_owned(),
                to: to.name.clone(),
            });
        }
    }
    Ok(())
}
