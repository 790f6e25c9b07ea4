//! Transfers: reading a range of elements in walk order, converted, and writing such a range.
//!
//! Models: `dma`, `dma.t` and the data of network operations, in ranges of elements so that a timed engine can commit as
//! data arrives. Leaves out: which engine moves what when. Invariant: a range starts and ends at multiples of
//! [`Transfer::granule`]; the bytes between [`read`] and [`write`] are elements of the destination type, packed in walk
//! order.

use crate::chip::Chip;
use crate::machine::memory::Memory;
use crate::machine::op::{Transfer, Walk};
use crate::machine::place;
use crate::machine::trap::TrapKind;
use crate::num::{Overflow, Rounding, decode_slice, encode_slice};
use std::sync::Arc;

/// Elements `start .. start + len` of the walk, converted to the destination type and packed; `None` in a run without
/// data if any of them is not stored.
///
/// # Errors
/// A range outside `src`, which only a wrong `src` can cause.
pub fn read(t: &Transfer, start: u64, len: u64, src: &Memory) -> Result<Option<Vec<u8>>, TrapKind> {
    debug_assert_eq!(start % t.granule(), 0);
    debug_assert_eq!(len % t.granule(), 0);
    if src.layout().is_some() && !stored(t, start, len, src) {
        return Ok(None);
    }
    let mut out = vec![0; t.ddt.bytes_for(len) as usize];
    let mut done = 0;
    let mut convert = Convert::default();
    for piece in t.pieces(start, len) {
        let bytes = t.ddt.bytes_for(piece.elements) as usize;
        let out = &mut out[done..done + bytes];
        done += bytes;
        let packed = t.sdt == t.ddt && piece.src_step == 0;
        if packed {
            src.read(piece.src, out)?;
            continue;
        }
        let raw = convert.raw(t.sdt.bytes_for(piece.elements) as usize);
        if piece.src_step == 0 {
            src.read(piece.src, raw)?;
        } else {
            let size = t.sdt.bytes_for(1) as usize;
            for (element, to) in raw.chunks_exact_mut(size).enumerate() {
                src.read(piece.src + element as u64 * piece.src_step, to)?;
            }
        }
        if t.sdt == t.ddt {
            out.copy_from_slice(raw);
        } else {
            convert.values.resize(piece.elements as usize, 0.0);
            decode_slice(t.sdt, &convert.raw, &mut convert.values);
            let (rne, saturate) = (Rounding::Rne, Overflow::Saturate);
            encode_slice(t.ddt, &convert.values, out, rne, saturate);
        }
    }
    Ok(Some(out))
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
        0 => src.stores(piece.src, t.sdt.bytes_for(piece.elements)),
        step => {
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
    Ok(())
}
