//! Transfers (`isa/dma.toml`) and the data of network operations (`isa/net.toml`).
//!
//! Models: `dma`, `dma.t`, `dma.q`, `net.put`, `net.get`, `net.bcast`: every element that moves, one after the other. Leaves out: order
//! among the bytes of one transfer; a transfer that writes what it reads, or writes a byte twice, has no answer here.
//! Invariant: a [`Transfer`] that exists stays inside its memories, but for rows that a gather's table places.

use super::address::{own_sram, resolve};
use super::codes;
use super::control::members;
use super::number::{Rounding, Value};
use super::quantise::{Rule, quantise};
use super::state::{Machine, Operation, own_place};
use super::{FLAG_DMA, Memory, Numbers, Place, Trap, Unit};
use crate::isa::{Dtype, Inst, QuantRule, Reg};

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
    /// `dma.q`: what becomes of blocks of the last axis.
    pub quantise: Option<Quantise>,
}

/// The blocks of a `dma.q`.
#[derive(Clone, Debug)]
pub struct Quantise {
    /// How scales follow from values.
    pub rule: Rule,
    /// Offset of the scales in the memories written.
    pub scales: u64,
    /// Bytes from the scales of a block to those of the next.
    pub ld: u64,
    /// The tensor scale.
    pub tensor_scale: Value,
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
            } => rows(numbers, unit, o, (sdt, src), (ddt, dst), len)?,
            Inst::DmaQ {
                rule,
                sdt,
                ddt,
                dst,
                src,
                len,
                sc,
                ld,
                g,
                ..
            } => {
                let mut transfer = rows(numbers, unit, o, (sdt, src), (ddt, dst), len)?;
                let rule = match rule {
                    QuantRule::Floor => Rule::Floor,
                    QuantRule::Rceil => Rule::Rceil,
                    QuantRule::Nvfp4 => Rule::Nvfp4,
                };
                if rule == Rule::Nvfp4 && ddt != Dtype::E2m1 {
                    return Err(Trap(format!("nvfp4 of {ddt}")));
                }
                let block = rule.block() as u64;
                if r(len) % block != 0 {
                    return Err(Trap(format!("rows of {} in blocks of {block}", r(len))));
                }
                let (places, scales) = destination(numbers, unit, o.staged.mcast, r(sc))?;
                if places != transfer.destinations || places[0] == Place::Hbm {
                    return Err(Trap("scales go to the SRAM that codes go to".into()));
                }
                let lines: u128 = transfer.axes.iter().map(|a| u128::from(a.0)).product();
                let lines = lines / u128::from(r(len));
                if u128::from(r(ld)) < lines {
                    return Err(Trap(format!("ld {} of {lines} rows", r(ld))));
                }
                let last = i128::from(r(len) / block - 1) * i128::from(r(ld)) + lines as i128;
                let first = i128::from(scales);
                inside(numbers, places[0], first, first + last)?;
                transfer.quantise = Some(Quantise {
                    rule,
                    scales,
                    ld: r(ld),
                    tensor_scale: codes::f32_value(r(g) as u32),
                });
                transfer
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
                    quantise: None,
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
                    quantise: None,
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

/// The transfer of rows of `len` elements over the staged dimensions.
fn rows(
    numbers: &Numbers,
    unit: Unit,
    o: &Operation,
    (sdt, src): (Dtype, Reg),
    (ddt, dst): (Dtype, Reg),
    len: Reg,
) -> Result<Transfer, Trap> {
    let r = |x| o.register(x);
    let (destinations, offset) = destination(numbers, unit, o.staged.mcast, r(dst))?;
    counted(r(len), MAX_COUNT)?;
    for dtype in [sdt, ddt] {
        if (i128::from(r(len)) * bits(dtype)) % 8 != 0 {
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
        Some(_) if o.staged.dims.is_empty() => return Err(Trap("gather without dim".into())),
        Some((table, stride)) => {
            let at = own_sram(numbers, unit, table)?;
            let end = i128::from(at) + 4 * i128::from(axes[0].0);
            let own = own_place(unit).ok_or(Trap("no SRAM of its own".into()))?;
            inside(numbers, own, i128::from(at), end)?;
            Some((at, stride))
        }
    };
    Ok(Transfer {
        sdt,
        ddt,
        source: resolve(numbers, unit, r(src))?,
        destinations,
        offset,
        axes,
        gather,
        quantise: None,
    })
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
    // Where an element lies at source and destination, in bits from their starts.
    let places = |element: u64| {
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
        (
            8 * i128::from(t.source.1) + from,
            8 * i128::from(t.offset) + to,
        )
    };
    let elements: u64 = t.axes.iter().map(|a| a.0).product();
    let (source, width) = (t.source.0, bits(t.sdt));
    let mut lost_nan = false;
    match &t.quantise {
        None => {
            for element in 0..elements {
                let (from, to) = places(element);
                let code = get(machine.memory(source), from, width);
                let (code, lost) = convert(t.sdt, t.ddt, code);
                lost_nan |= lost;
                for place in &t.destinations {
                    put(machine.memory(*place), to, bits(t.ddt), code);
                }
            }
        }
        Some(q) => {
            let row = t.axes[t.axes.len() - 1].0;
            let block = q.rule.block() as u64;
            for first in (0..elements).step_by(block as usize) {
                let values: Vec<Value> = (first..first + block)
                    .map(|e| codes::decode(t.sdt, get(machine.memory(source), places(e).0, width)))
                    .collect();
                let quantised = quantise(q.rule, t.ddt, &values, &q.tensor_scale);
                lost_nan |= quantised.lost_nan;
                // Block j of row i.
                let (i, j) = (first / row, first % row / block);
                for place in &t.destinations {
                    let memory = machine.memory(*place);
                    for (element, code) in (first..).zip(&quantised.codes) {
                        put(memory, places(element).1, bits(t.ddt), *code);
                    }
                    memory.write(q.scales + j * q.ld + i, quantised.scale);
                }
            }
        }
    }
    if lost_nan {
        machine.unit(unit).flags |= FLAG_DMA;
    }
    Ok(())
}

/// The code in another type: the same bits if it is the same type, else the same number, rounded to nearest even, finite
/// numbers saturating and infinities kept by types that have them; and whether a NaN met a type that has none.
fn convert(sdt: Dtype, ddt: Dtype, code: u32) -> (u32, bool) {
    if sdt == ddt {
        return (code, false);
    }
    let value = codes::decode(sdt, code);
    let encoded = codes::encode(ddt, &value, Rounding::Rne, codes::Overflow::Finite);
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
