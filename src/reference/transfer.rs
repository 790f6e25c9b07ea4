//! Transfers (`isa/dma.toml`) and the data of network operations (`isa/net.toml`).
//!
//! Models: `dma`, `dma.t`, `net.put`, `net.get`, `net.bcast`: every element that moves, one after the other. Leaves out: order
//! among the bytes of one transfer; a transfer that writes what it reads, or writes a byte twice, has no answer here.
//! Invariant: a [`Transfer`] that exists stays inside its memories, but for rows that a gather's table places.

use super::address::{own_sram, resolve};
use super::codes;
use super::control::members;
use super::number::Rounding;
use super::state::{Machine, Operation, own_place};
use super::{FLAG_DMA, Memory, Numbers, Place, Trap, Unit};
use crate::isa::{Dtype, Inst};

/// Most elements of a row, most iterations of a dimension.
const MAX_COUNT: u64 = 1 << 32;
/// Most rows or columns of a transposed matrix.
const MAX_TRANSPOSED: u64 = 1 << 24;
/// Most elements of a transfer.
const MAX_ELEMENTS: u128 = 1 << 40;

/// What a transfer moves: `count` elements along each of up to three axes, of which the last is the innermost.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Element type at the source.
    pub sdt: Dtype,
    /// Element type at the destination.
    pub ddt: Dtype,
    /// Memory and offset read.
    pub source: (Place, u64),
    /// Memories written.
    pub destinations: Vec<Place>,
    /// Offset written in each.
    pub offset: u64,
    /// Count, destination stride, source stride in bits, outermost first.
    pub axes: Vec<(u64, i128, i128)>,
    /// `gather`: offset of the table in the own SRAM, bytes per index. It replaces the source stride of the first axis.
    pub gather: Option<(u64, i64)>,
}

impl Transfer {
    /// The transfer that an operation makes, `None` if it makes none.
    pub fn of(numbers: &Numbers, unit: Unit, o: &Operation) -> Result<Option<Transfer>, Trap> {
        let r = |x| o.register(x);
        let transfer = match o.inst {
            Inst::Dma {
                sdt,
                ddt,
                dst,
                src,
                len,
                ..
            } => {
                let (destinations, offset) = destination(numbers, unit, o.staged.mcast, r(dst))?;
                counted(r(len), MAX_COUNT)?;
                for dtype in [sdt, ddt] {
                    if !(u128::from(r(len)) * bits(dtype) as u128).is_multiple_of(8) {
                        return Err(Trap(format!(
                            "a row of {} {dtype} is no whole bytes",
                            r(len)
                        )));
                    }
                }
                let mut axes: Vec<_> = o.staged.dims.iter().map(in_bits).collect();
                axes.push((r(len), bits(ddt), bits(sdt)));
                let gather = match o.staged.gather {
                    None => None,
                    Some(_) if o.staged.dims.is_empty() => {
                        return Err(Trap("gather without dim".into()));
                    }
                    Some((table, stride)) => {
                        let at = own_sram(numbers, unit, table)?;
                        let end = i128::from(at) + 4 * i128::from(axes[0].0);
                        let own = own_place(unit).ok_or(Trap("no SRAM of its own".into()))?;
                        inside(numbers, own, i128::from(at), end)?;
                        Some((at, stride))
                    }
                };
                Transfer {
                    sdt,
                    ddt,
                    source: resolve(numbers, unit, r(src))?,
                    destinations,
                    offset,
                    axes,
                    gather,
                }
            }
            Inst::DmaT {
                sdt,
                ddt,
                dst,
                src,
                rows,
                cols,
                dld,
                sld,
                ..
            } => {
                let (destinations, offset) = destination(numbers, unit, o.staged.mcast, r(dst))?;
                counted(r(rows), MAX_TRANSPOSED)?;
                counted(r(cols), MAX_TRANSPOSED)?;
                if bits(sdt) < 8 || bits(ddt) < 8 {
                    return Err(Trap("a transposed sub-byte type".into()));
                }
                if !o.staged.dims.is_empty() || o.staged.gather.is_some() {
                    return Err(Trap("dim or gather staged for a transpose".into()));
                }
                let (dld, sld) = (8 * i128::from(r(dld)), 8 * i128::from(r(sld)));
                // for c in 0..cols, r in 0..rows
                let axes = vec![(r(cols), dld, bits(sdt)), (r(rows), bits(ddt), sld)];
                Transfer {
                    sdt,
                    ddt,
                    source: resolve(numbers, unit, r(src))?,
                    destinations,
                    offset,
                    axes,
                    gather: None,
                }
            }
            Inst::NetPut { dst, src, len, .. }
            | Inst::NetGet { dst, src, len, .. }
            | Inst::NetBcast { dst, src, len, .. } => {
                let (destinations, offset) = destination(numbers, unit, None, r(dst))?;
                counted(r(len), MAX_COUNT)?;
                Transfer {
                    sdt: Dtype::U8,
                    ddt: Dtype::U8,
                    source: resolve(numbers, unit, r(src))?,
                    destinations,
                    offset,
                    axes: vec![(r(len), 8, 8)],
                    gather: None,
                }
            }
            _ => return Ok(None),
        };
        let elements: u128 = transfer.axes.iter().map(|a| u128::from(a.0)).product();
        if elements > MAX_ELEMENTS {
            return Err(Trap(format!("{elements} elements in one transfer")));
        }
        let written = transfer.axes.iter().map(|a| (a.0, a.1));
        let (low, high) = reach(written, bits(transfer.ddt));
        let at = i128::from(transfer.offset);
        inside(numbers, transfer.destinations[0], at + low, at + high)?;
        if transfer.gather.is_none() {
            let read = transfer.axes.iter().map(|a| (a.0, a.2));
            let (low, high) = reach(read, bits(transfer.sdt));
            let (place, at) = (transfer.source.0, i128::from(transfer.source.1));
            inside(numbers, place, at + low, at + high)?;
        }
        Ok(Some(transfer))
    }
}

/// Width of a type.
fn bits(dtype: Dtype) -> i128 {
    i128::from(codes::bits(dtype))
}

fn in_bits((count, ds, ss): &(u64, i64, i64)) -> (u64, i128, i128) {
    (*count, 8 * i128::from(*ds), 8 * i128::from(*ss))
}

fn counted(count: u64, limit: u64) -> Result<(), Trap> {
    match count {
        count if count == 0 || count > limit => Err(Trap(format!("{count} is 0 or over {limit}"))),
        _ => Ok(()),
    }
}

/// Memories and offset that a transfer writes. A multicast writes the units of its mask, whatever unit the address names.
fn destination(
    numbers: &Numbers,
    unit: Unit,
    mcast: Option<u64>,
    address: u64,
) -> Result<(Vec<Place>, u64), Trap> {
    let Some(mask) = mcast else {
        let (place, offset) = resolve(numbers, unit, address)?;
        return Ok((vec![place], offset));
    };
    let (count, place): (u64, fn(u64) -> Place) = match address >> 40 {
        1 | 3 => (numbers.clusters, Place::Csram),
        2 | 4 => (numbers.tiles(), Place::Tsram),
        _ => return Err(Trap("a multicast goes to SRAM".into())),
    };
    let units = members(mask, count)?;
    if units.is_empty() {
        return Err(Trap("the mask names no unit".into()));
    }
    Ok((units.into_iter().map(place).collect(), address % (1 << 32)))
}

/// Lowest and past-the-highest byte, counted from the start, of elements of `width` bits over (count, stride in bits).
fn reach(axes: impl Iterator<Item = (u64, i128)>, width: i128) -> (i128, i128) {
    let (mut low, mut high) = (0, width);
    for (count, stride) in axes {
        let jump = i128::from(count - 1) * stride;
        low += jump.min(0);
        high += jump.max(0);
    }
    (low.div_euclid(8), high.div_euclid(8))
}

/// Traps unless bytes `first .. end` of a memory exist.
fn inside(numbers: &Numbers, place: Place, first: i128, end: i128) -> Result<(), Trap> {
    Memory::new(match place {
        Place::Hbm => numbers.hbm_bytes,
        Place::Csram(_) => numbers.csram_bytes,
        Place::Tsram(_) => numbers.tsram_bytes,
    })
    .check(first, end)
}

/// Moves everything.
pub fn run(machine: &mut Machine, unit: Unit, t: &Transfer) -> Result<(), Trap> {
    // Offsets of the source by index of the first axis, in bits.
    let mut first_axis = Vec::new();
    if let Some((table, stride)) = t.gather {
        let own = own_place(unit).ok_or(Trap("no SRAM of its own".into()))?;
        for i in 0..t.axes[0].0 {
            let word = machine.memory(own).read_word(table + 4 * i, 4);
            let index = i128::from(word as u32 as i32);
            let offset = index * i128::from(stride);
            let read = t.axes[1..].iter().map(|a| (a.0, a.2));
            let (low, high) = reach(read, bits(t.sdt));
            let at = i128::from(t.source.1) + offset;
            inside(&machine.numbers, t.source.0, at + low, at + high)?;
            first_axis.push(8 * offset);
        }
    }
    let elements: u64 = t.axes.iter().map(|a| a.0).product();
    for element in 0..elements {
        // The index along each axis, the last one running fastest.
        let (mut rest, mut from, mut to) = (element, 0, 0);
        for (number, (count, ds, ss)) in t.axes.iter().enumerate().rev() {
            let index = rest % count;
            rest /= count;
            to += i128::from(index) * ds;
            from += match (number, t.gather) {
                (0, Some(_)) => first_axis[index as usize],
                _ => i128::from(index) * ss,
            };
        }
        let source = machine.memory(t.source.0);
        let code = get(source, 8 * i128::from(t.source.1) + from, bits(t.sdt));
        let (code, lost_nan) = convert(t.sdt, t.ddt, code);
        if lost_nan {
            machine.unit(unit).flags |= FLAG_DMA;
        }
        for place in &t.destinations {
            let destination = machine.memory(*place);
            let at = 8 * i128::from(t.offset) + to;
            put(destination, at, bits(t.ddt), code);
        }
    }
    Ok(())
}

/// The code in another type: the same bits if it is the same type, else the same number, rounded to nearest even and
/// saturating; and whether a NaN met a type that has none.
fn convert(sdt: Dtype, ddt: Dtype, code: u32) -> (u32, bool) {
    if sdt == ddt {
        return (code, false);
    }
    let value = codes::decode(sdt, code);
    let encoded = codes::encode(ddt, &value, Rounding::Rne, codes::Overflow::Saturate);
    (encoded.code, encoded.lost_nan)
}

/// `width` bits from bit `at` on; bit 0 of a byte is its lowest.
fn get(memory: &Memory, at: i128, width: i128) -> u32 {
    (0..width).fold(0, |code, i| {
        let bit = (at + i) as u64;
        code | u32::from(memory.read(bit / 8) >> (bit % 8) & 1) << i
    })
}

/// Sets `width` bits from bit `at` on.
fn put(memory: &mut Memory, at: i128, width: i128, code: u32) {
    for i in 0..width {
        let bit = (at + i) as u64;
        let byte = memory.read(bit / 8) & !(1 << (bit % 8));
        memory.write(bit / 8, byte | ((code >> i & 1) as u8) << (bit % 8));
    }
}
