//! Transfers (`isa/dma.toml`, `isa/net.toml`) over unrounded numbers.
//!
//! Models: which elements move where; a conversion between floating-point types of 8 bits or more changes nothing, one to another type
//! rounds. Leaves out: the order inside a transfer: all is read before anything is written. Invariant: every byte that is touched is
//! reported.

use super::cells::{Cells, encode, kept, size};
use super::control::members;
use super::state::{Machine, Operation, Place, Touched, Trap, Unit, touch, want};
use crate::isa::{Dtype, Inst, QuantRule, Reg};
use crate::num::{block, e8m0_value, ue4m3_value};

/// Most elements that one transfer moves here.
const MAX_ELEMENTS: u128 = 1 << 28;
/// Most rows of one transfer, each of which is held.
const MAX_ROWS: u128 = 1 << 21;

/// Rows over two dimensions.
struct Walk {
    /// Count, destination stride, source stride in bytes; outermost first.
    dims: [(u64, i64, i64); 2],
    /// Source offsets of the outer dimension, if a table gives them.
    jumps: Option<Vec<i64>>,
}

impl Walk {
    /// Offsets of every row: source, destination.
    fn rows(&self) -> impl Iterator<Item = (i64, i64)> {
        let [outer, inner] = self.dims;
        (0..outer.0 as i64).flat_map(move |i| {
            let jump = match &self.jumps {
                Some(jumps) => jumps[i as usize],
                None => i.wrapping_mul(outer.2),
            };
            let to = i.wrapping_mul(outer.1);
            (0..inner.0 as i64).map(move |j| {
                let from = jump.wrapping_add(j.wrapping_mul(inner.2));
                (from, to.wrapping_add(j.wrapping_mul(inner.1)))
            })
        })
    }
}

/// Where a transfer goes: memories, and the offset in each.
pub fn destinations(
    machine: &Machine,
    unit: Unit,
    o: &Operation,
    address: u64,
) -> Result<(Vec<Place>, u64), Trap> {
    let Some(mask) = o.staged.mcast else {
        let (place, at) = machine.resolve(unit, address)?;
        return Ok((vec![place], at));
    };
    let (count, place): (u64, fn(u16) -> Place) = match address >> 40 {
        1 | 3 => (machine.chip.clusters.into(), Place::Csram),
        2 | 4 => (machine.tiles(), Place::Tsram),
        _ => return Err(Trap("a multicast goes to SRAM".into())),
    };
    let units = members(mask, count)?;
    want(!units.is_empty(), || "the mask names no unit".into())?;
    let places = units.into_iter().map(place).collect();
    Ok((places, address & ((1 << 32) - 1)))
}

/// The memories that an operation writes as a transfer.
pub fn written(machine: &Machine, unit: Unit, o: &Operation) -> Vec<Place> {
    let dst = match o.inst {
        Inst::Dma { dst, .. } | Inst::DmaT { dst, .. } | Inst::DmaQ { dst, .. } => dst,
        _ => return Vec::new(),
    };
    let places = destinations(machine, unit, o, o.r(dst));
    places.map_or_else(|_| Vec::new(), |(places, _)| places)
}

/// The bytes at an offset from an address, if they are in the memory.
fn bytes(
    machine: &Machine,
    place: Place,
    at: u64,
    offset: i64,
    n: u64,
) -> Result<std::ops::Range<u64>, Trap> {
    let first = i128::from(at) + i128::from(offset);
    machine.inside(place, first, first + i128::from(n))?;
    Ok(first as u64..first as u64 + n)
}

fn whole_bytes(dtype: Dtype, len: u64) -> Result<u64, Trap> {
    let bits = u128::from(len) * u128::from(dtype.bits());
    want(len > 0 && bits % 8 == 0, || {
        format!("a row of {len} {dtype}")
    })?;
    Ok((bits / 8) as u64)
}

fn walk(
    machine: &Machine,
    unit: Unit,
    o: &Operation,
    len: u64,
    touched: &mut Touched,
) -> Result<Walk, Trap> {
    let staged = &o.staged.dims;
    let one = (1, 0, 0);
    let dims = match staged[..] {
        [] => [one, one],
        [outer] => [outer, one],
        [outer, inner, ..] => [outer, inner],
    };
    let all = u128::from(len) * u128::from(dims[0].0) * u128::from(dims[1].0);
    let rows = all / u128::from(len.max(1));
    want(all <= MAX_ELEMENTS && rows <= MAX_ROWS, || {
        format!("{all} elements in {rows} rows are more than the checker holds")
    })?;
    let mut jumps = None;
    if let Some((table, stride)) = o.staged.gather {
        want(!staged.is_empty(), || "gather without dim".into())?;
        let n = 4 * dims[0].0;
        let at = machine.own(unit, table, n)?;
        let place = unit.place().unwrap_or(Place::Hbm);
        touch(&mut touched.reads, place, at..at + n);
        let row = machine.memory(place).row(at, n as usize);
        let index = |i: usize| i64::from(row.word(4 * i, 4) as u32 as i32);
        let each = (0..dims[0].0 as usize).map(|i| index(i).wrapping_mul(stride));
        jumps = Some(each.collect());
    }
    Ok(Walk { dims, jumps })
}

/// One row of another type.
fn converted(row: Cells, sdt: Dtype, ddt: Dtype, len: usize) -> Cells {
    if sdt == ddt {
        return row;
    }
    let mut values = Vec::with_capacity(len);
    row.elements(sdt, len, &mut values);
    let mut out = Cells::new(ddt.bytes_for(len as u64) as usize);
    for (i, x) in values.into_iter().enumerate() {
        out.set_element(ddt, i, x);
    }
    out
}

/// Puts the numbers of the graph's value in place of a row that is one.
fn told(machine: &mut Machine, row: &mut Cells) {
    let Some((dtype, numbers)) = row.numbers() else {
        return;
    };
    if let Some((exact, off)) = machine.known.find(&numbers) {
        for (i, x) in exact.iter().enumerate() {
            row.set_number(dtype, i * size(dtype), *x);
        }
        machine.worst = machine.worst.max(off);
    }
}

/// Does a transfer.
pub fn run(machine: &mut Machine, unit: Unit, o: &Operation) -> Result<Touched, Trap> {
    let mut touched = Touched::default();
    match o.inst {
        Inst::Dma {
            sdt,
            ddt,
            dst,
            src,
            len,
            ..
        } => {
            let len = o.r(len);
            let rows = rows(machine, unit, o, (sdt, o.r(src)), len, &mut touched)?;
            let (places, at) = destinations(machine, unit, o, o.r(dst))?;
            let n = whole_bytes(ddt, len)?;
            let mut rows: Vec<(i64, Cells)> = rows
                .into_iter()
                .map(|(to, row)| (to, converted(row, sdt, ddt, len as usize)))
                .collect();
            // To HBM or to several units go values that later stages read; what one unit fetches are operands.
            if places == [Place::Hbm] || places.len() > 1 {
                rows.iter_mut().for_each(|(_, row)| told(machine, row));
            }
            for place in places {
                for (offset, row) in &rows {
                    write(machine, &[place], at, *offset, n, row, &mut touched)?;
                }
            }
        }
        Inst::DmaQ { .. } => quantise(machine, unit, o, &mut touched)?,
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
            let (rows, cols) = (o.r(rows), o.r(cols));
            let fits = |n: u64| (1..=1 << 24).contains(&n);
            let whole = sdt.bits() >= 8 && ddt.bits() >= 8 && o.staged.dims.is_empty();
            let small = u128::from(rows) * u128::from(cols) <= MAX_ELEMENTS;
            want(fits(rows) && fits(cols) && whole && small, || {
                format!("{rows} x {cols} transposed")
            })?;
            let (place, from) = machine.resolve(unit, o.r(src))?;
            let (places, to) = destinations(machine, unit, o, o.r(dst))?;
            let n = whole_bytes(sdt, cols)?;
            let mut values = Vec::new();
            let mut raw = Vec::new();
            for r in 0..rows {
                let offset = r.wrapping_mul(o.r(sld)) as i64;
                let bytes = bytes(machine, place, from, offset, n)?;
                touch(&mut touched.reads, place, bytes.clone());
                let row = machine.memory(place).row(bytes.start, n as usize);
                match sdt == ddt {
                    true => raw.push(row),
                    false => row.elements(sdt, cols as usize, &mut values),
                }
            }
            let n = whole_bytes(ddt, rows)?;
            let size = (ddt.bits() / 8) as usize;
            for c in 0..cols as usize {
                let mut row = Cells::new(n as usize);
                for r in 0..rows as usize {
                    match raw.get(r) {
                        Some(from) => row.copy(r * size, from, c * size, size),
                        None => row.set_element(ddt, r, values[r * cols as usize + c]),
                    }
                }
                let offset = (c as u64).wrapping_mul(o.r(dld)) as i64;
                write(machine, &places, to, offset, n, &row, &mut touched)?;
            }
        }
        Inst::NetPut { dst, src, len, .. }
        | Inst::NetGet { dst, src, len, .. }
        | Inst::NetBcast { dst, src, len, .. } => {
            let byte = (Dtype::U8, o.r(src));
            let rows = rows(machine, unit, o, byte, o.r(len), &mut touched)?;
            let (place, at) = machine.resolve(unit, o.r(dst))?;
            for (offset, row) in rows {
                write(machine, &[place], at, offset, o.r(len), &row, &mut touched)?;
            }
        }
        _ => {}
    }
    Ok(touched)
}

/// The source's rows with their destination offsets.
fn rows(
    machine: &Machine,
    unit: Unit,
    o: &Operation,
    (sdt, src): (Dtype, u64),
    len: u64,
    touched: &mut Touched,
) -> Result<Vec<(i64, Cells)>, Trap> {
    let n = whole_bytes(sdt, len)?;
    let walk = walk(machine, unit, o, len, touched)?;
    let (place, from) = machine.resolve(unit, src)?;
    let mut rows = Vec::new();
    for (offset, to) in walk.rows() {
        let bytes = bytes(machine, place, from, offset, n)?;
        match rows.is_empty() {
            // Not one range with the table.
            true => touched.reads.push((place, bytes.clone())),
            false => touch(&mut touched.reads, place, bytes.clone()),
        }
        rows.push((to, machine.memory(place).row(bytes.start, n as usize)));
    }
    Ok(rows)
}

fn write(
    machine: &mut Machine,
    places: &[Place],
    at: u64,
    offset: i64,
    n: u64,
    row: &Cells,
    touched: &mut Touched,
) -> Result<(), Trap> {
    for place in places {
        let bytes = bytes(machine, *place, at, offset, n)?;
        touch(&mut touched.writes, *place, bytes.clone());
        machine
            .memory_mut(*place)
            .write(bytes.start, n as usize, row, 0);
    }
    Ok(())
}

fn quantise(
    machine: &mut Machine,
    unit: Unit,
    o: &Operation,
    touched: &mut Touched,
) -> Result<(), Trap> {
    let Inst::DmaQ {
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
    } = o.inst
    else {
        return Ok(());
    };
    let r = |x: Reg| o.r(x);
    let size = block_of(rule) as u64;
    let len = r(len);
    want(len % size == 0, || format!("rows of {len} in blocks"))?;
    let rows = rows(machine, unit, o, (sdt, r(src)), len, touched)?;
    let (places, at) = destinations(machine, unit, o, r(dst))?;
    let (same, scales) = destinations(machine, unit, o, r(sc))?;
    want(same == places && places[0] != Place::Hbm, || {
        "scales go where codes go".into()
    })?;
    want(r(ld) >= rows.len() as u64, || "ld is too short".into())?;
    let n = whole_bytes(ddt, len)?;
    for (i, (offset, row)) in rows.into_iter().enumerate() {
        let mut values = Vec::new();
        row.elements(sdt, len as usize, &mut values);
        let mut codes = Cells::new(n as usize);
        for (j, part) in values.chunks(size as usize).enumerate() {
            let (scale, quotients) = block(rule, ddt, r(g) as u32, part);
            for (e, x) in quotients.into_iter().enumerate() {
                codes.set_element(ddt, j * size as usize + e, x);
            }
            let at = j as u64 * r(ld) + i as u64;
            let scale = Cells::of(vec![scale]);
            write(machine, &places, scales, at as i64, 1, &scale, touched)?;
        }
        write(machine, &places, at, offset, n, &codes, touched)?;
    }
    Ok(())
}

/// Elements that share a scale.
pub fn block_of(rule: QuantRule) -> usize {
    match rule {
        QuantRule::Nvfp4 => block::NVFP4_BLOCK,
        _ => block::MX_BLOCK,
    }
}

/// The scale's code of a block, and what is left of its values: quotients, or in types that are not kept numbers of that type.
pub fn block(rule: QuantRule, ddt: Dtype, g: u32, values: &[f64]) -> (u8, Vec<f64>) {
    let narrow: Vec<f32> = values.iter().map(|x| *x as f32).collect();
    let mut codes = vec![0; values.len()];
    if rule == QuantRule::Nvfp4 {
        let scale = block::quantise_nvfp4(f32::from_bits(g), &narrow, &mut codes).scale;
        let number = |c: &u8| super::cells::decode(ddt, u32::from(*c));
        return (scale, codes.iter().map(number).collect());
    }
    let rule = match rule {
        QuantRule::Rceil => block::ScaleRule::Rceil,
        _ => block::ScaleRule::Floor,
    };
    let scale = block::mx_scale(ddt, rule, block::amax(&narrow));
    let by = f64::from(e8m0_value(254 - scale));
    let quotient = |x: &f64| match kept(ddt) {
        true => x * by,
        false => super::cells::decode(ddt, encode(ddt, x * by)),
    };
    (scale, values.iter().map(quotient).collect())
}

/// The number of a scale.
pub fn scale(nvfp4: bool, code: u8) -> f64 {
    f64::from(match nvfp4 {
        true => ue4m3_value(code),
        false => e8m0_value(code),
    })
}
