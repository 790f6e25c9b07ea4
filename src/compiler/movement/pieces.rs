//! How a part of a copy is cut into pieces that go through SRAM.
//!
//! Models: axes in bytes, the fewest that describe a part ([`axes`]), and the box of them that one piece has ([`cut`]). Leaves out: code.
//! Invariants: boxes of a part cover it once; a piece fits its buffer.
//!
//! Forms of a piece: *rows* that are contiguous on both sides, over two more axes; a *turn*, where operand and result are contiguous along
//! different axes: rows of the operand are loaded, and the store transposes, because a transposing read of HBM is a request for each
//! element. A last axis in short steps is a turn of one column. What is left (a last axis that runs backwards, in wide steps or repeats
//! one element) is loaded element by element.

use super::copy::{Part, Source};
use crate::num::Dtype;

/// An axis of a part, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    pub count: u64,
    /// Between neighbours in the operand.
    pub from: i64,
    /// Between neighbours in the result; positive.
    pub to: i64,
}

/// A part in bytes. Axes in the order of the result; the last is of single bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axes {
    pub axes: Vec<Axis>,
    /// First byte in the operand and in the result.
    pub from: u64,
    pub to: u64,
    /// One past the last byte in the operand and in the result.
    pub from_end: u64,
    pub to_end: u64,
    /// Bytes of the element that the last axis is made of; of those that together are whole bytes, for types of 4 and 6 bits.
    pub size: u64,
    /// One value everywhere; it has no strides in the operand.
    pub fill: bool,
}

/// Bytes past which a part is not addressed: more than any HBM, and no product overflows.
const REACH: i128 = 1 << 46;

/// A part in bytes, with as few axes as describe it; `None` if it has no element.
///
/// # Errors
/// What is wrong with it.
pub fn axes(part: &Part, dtype: Dtype) -> Result<Option<Axes>, String> {
    let rank = part.shape.len();
    if part.strides.len() != rank || part.result_strides.len() != rank {
        return Err(format!(
            "{rank} extents, {} strides and {} of the result",
            part.strides.len(),
            part.result_strides.len()
        ));
    }
    if part.shape.contains(&0) {
        return Ok(None);
    }
    // Elements of a unit that is whole bytes, and its bytes.
    let bits = u64::from(dtype.bits());
    let (group, size) = match bits {
        4 => (2, 1),
        6 => (4, 3),
        _ => (1, bits / 8),
    };
    let fill = match part.source {
        Source::Fill(_) => true,
        Source::Operand(_) => {
            let mut axes = part.shape.iter().zip(&part.strides);
            group == 1 && axes.all(|(count, stride)| *count == 1 || *stride == 0)
        }
    };
    let (mut from, mut to) = (i128::from(part.from), i128::from(part.to));
    let mut list = Vec::new();
    let mut unit = group == 1;
    for ((count, stride), result) in part
        .shape
        .iter()
        .zip(&part.strides)
        .zip(&part.result_strides)
    {
        let (count, mut stride, mut result) = (*count, i128::from(*stride), i128::from(*result));
        if fill {
            stride = 0;
        }
        if count == 1 {
            continue;
        }
        if result == 0 {
            return Err("the result has stride 0".to_owned());
        }
        let last = i128::from(count - 1);
        if result < 0 {
            // The same elements from the other end.
            (from, to) = (from + last * stride, to + last * result);
            (stride, result) = (-stride, -result);
        }
        let whole = |x: i128| x % i128::from(group) == 0;
        if group > 1 && result == 1 && (stride == 1 || fill) && count.is_multiple_of(group) {
            unit = true;
            if count > group {
                let step = i128::from(size);
                list.push((count / group, if fill { 0 } else { step }, step));
            }
            continue;
        }
        if !whole(stride) || !whole(result) {
            return Err(format!(
                "rows of {dtype} are no whole bytes (extent {count}, strides {stride} and {result})"
            ));
        }
        let bytes = |x: i128| x / i128::from(group) * i128::from(size);
        list.push((count, bytes(stride), bytes(result)));
    }
    let whole = |x: i128| x % i128::from(group) == 0;
    if !unit || !whole(from) || !whole(to) {
        return Err(format!(
            "rows of {dtype} are no whole bytes: the last axis has no multiple of {group} elements, or starts inside a byte"
        ));
    }
    let bytes = |x: i128| x / i128::from(group) * i128::from(size);
    let (from, to) = (bytes(from), bytes(to));
    list.sort_by_key(|(_, _, to)| std::cmp::Reverse(*to));
    let reach = |of: &dyn Fn(&(u64, i128, i128)) -> i128| {
        let ends = list.iter().map(|a| {
            let stride = of(a).clamp(-REACH, REACH);
            i128::from(a.0 - 1) * stride
        });
        ends.fold((0, i128::from(size)), |(low, high): (i128, i128), end| {
            (low + end.min(0), high + end.max(0))
        })
    };
    let (low, high) = reach(&|a| a.1);
    let to_high = reach(&|a| a.2).1;
    if from + low < 0 || from + high > REACH || to < 0 || to + to_high > REACH {
        return Err(format!(
            "bytes {} to {} of the operand, {to} to {} of the result: they must be 0 to {REACH}",
            from + low,
            from + high,
            to + to_high
        ));
    }
    // From the inside out: an axis starts behind all that the ones after it write.
    let mut behind = i128::from(size);
    for (count, _, step) in list.iter().rev() {
        if *step < behind {
            return Err(format!(
                "result strides overlap: {step} bytes, the axes inside take {behind}"
            ));
        }
        behind += step * i128::from(count - 1);
    }
    let mut merged: Vec<Axis> = Vec::new();
    list.push((size, i128::from(!fill), 1));
    for (count, from, to) in list {
        // All are inside of REACH.
        let inner = Axis {
            count,
            from: from as i64,
            to: to as i64,
        };
        match merged.last_mut() {
            Some(outer)
                if outer.to == inner.to * count as i64
                    && (fill || outer.from == inner.from * count as i64) =>
            {
                *outer = Axis {
                    count: outer.count * count,
                    ..inner
                };
            }
            _ => merged.push(inner),
        }
    }
    split(&mut merged, size);
    Ok(Some(Axes {
        axes: merged,
        from: from as u64,
        to: to as u64,
        from_end: (from + high) as u64,
        to_end: (to + to_high) as u64,
        size,
        fill,
    }))
}

/// Elements of a repeated one that are loaded, rather than stored again and again: its divisors up to that are tried.
const REPEATED: u64 = 2048;

/// Splits a last axis that repeats one element in two: the inner one is loaded element by element, the outer one repeats that.
fn split(axes: &mut Vec<Axis>, size: u64) {
    let [.., row, element] = &axes[..] else {
        return;
    };
    let alone = row.from == 0 && row.to == size as i64 && element.count == size;
    let turned = axes.iter().any(|a| a.from == size as i64);
    if !alone || turned || element.from == 0 {
        return;
    }
    let (row, at) = (*row, axes.len() - 2);
    let divides = |d: &u64| row.count.is_multiple_of(*d);
    let Some(count) = (2..=REPEATED.min(row.count - 1)).rev().find(divides) else {
        return;
    };
    axes[at].count = count;
    let outer = Axis {
        count: row.count / count,
        from: 0,
        to: row.to * count as i64,
    };
    axes.insert(at, outer);
}

/// An axis cut into boxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub axis: Axis,
    /// Elements of a piece along it, the last may have fewer.
    pub len: u64,
}

impl Cut {
    pub fn blocks(&self) -> u64 {
        self.axis.count.div_ceil(self.len)
    }

    /// Whether its last box is shorter.
    pub fn ragged(&self) -> bool {
        !self.axis.count.is_multiple_of(self.len)
    }
}

/// What a piece is. Numbers are indices of axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Rows of the last axis over two others; with `buffer`, the bytes between their elements in SRAM.
    Rows {
        outer: Option<usize>,
        inner: Option<usize>,
        /// In SRAM, of `outer` and `inner`; 0 where the operand repeats.
        buffer: (u64, u64),
        /// The axis, one of the two, whose elements follow each other without a gap in the operand: row and axis load as one row.
        joined: Option<usize>,
        /// Elements of `inner` follow each other without a gap in the result: row and axis are stored as one row.
        dense: bool,
    },
    /// Rows of `column` (one element without it) are loaded over `row` and stored turned, elements of `size` bytes. Where the operand
    /// repeats along `row`, one is loaded, behind the place of all, and copied in SRAM: HBM would be asked for the same bytes
    /// again and again.
    Turn {
        row: usize,
        column: Option<usize>,
        /// Bytes between rows in SRAM.
        pitch: u64,
        size: u64,
        /// Rows follow each other without a gap: they load as one row.
        joined: bool,
    },
}

/// A part cut into pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces {
    pub form: Form,
    /// In the order of the result. An axis that the form does not name has boxes of one element.
    pub cuts: Vec<Cut>,
    pub count: u64,
}

/// Bytes of the shortest piece that is worth the setup of its transfers.
const LEAST: u64 = 4 << 10;
/// Bytes of a request: shorter runs in HBM waste it.
const REQUEST: u64 = 256;
/// Widest step of a last axis whose gaps are loaded with it: its elements are requests of their own otherwise.
const SPAN: i64 = 256;

/// How many times its room a piece may write where elements repeat.
const LONG: u64 = 16;

/// Cuts a part into pieces of up to `slot` bytes of SRAM, several for each of `tiles` if it has so much; those of a fill are
/// read from one buffer of `slot` bytes.
pub fn cut(part: &Axes, slot: u64, tiles: u64) -> Pieces {
    let (axes, fill) = (&part.axes, part.fill);
    let bytes: u64 = axes.iter().map(|a| a.count).product();
    let goal = (bytes / (8 * tiles))
        .clamp(LEAST, slot.max(LEAST))
        .min(slot);
    let mut cuts: Vec<Cut> = axes.iter().map(|a| Cut { axis: *a, len: 1 }).collect();
    let form = turn(part, goal, &mut cuts).unwrap_or_else(|| rows(fill, goal, &mut cuts));
    let count = cuts.iter().map(Cut::blocks).product();
    Pieces { form, cuts, count }
}

/// The largest box of `count` elements that is at most `most`, whole `unit`s if it is not all, at least one element.
fn fit(count: u64, most: u64, unit: u64) -> u64 {
    match most {
        _ if count <= most => count,
        _ if most > unit => most / unit * unit,
        _ => most.max(1),
    }
}

/// Boxes of two axes that together take at most `most` elements: both of at least `unit`, then the second before the first.
fn both(counts: (u64, u64), most: u64, unit: u64) -> (u64, u64) {
    let least = fit(counts.0, unit, 1).min(most.max(1));
    let second = fit(counts.1, most / least, unit);
    // Square beyond the unit, so that neither side has long runs at the other's cost.
    let side = (most as f64).sqrt() as u64;
    let second = match second > side && counts.0 > least {
        true => fit(counts.1, side.max(unit).min(most / least), unit),
        false => second,
    };
    let first = fit(counts.0, most / second.max(1), unit);
    (first.max(1), second.max(1))
}

fn turn(part: &Axes, goal: u64, cuts: &mut [Cut]) -> Option<Form> {
    let size = part.size;
    let [.., row, element] = &part.axes[..] else {
        return None;
    };
    let fits = matches!(size, 1 | 2 | 4) && element.count == size && row.to == size as i64;
    if part.fill || !fits || row.from < 0 {
        return None;
    }
    let at = part.axes.len() - 2;
    cuts[at + 1].len = size;
    let unit = REQUEST / size;
    let column = part.axes[..at].iter().position(|a| a.from == size as i64);
    let most = (goal / size).max(1);
    if let Some(c) = column {
        let column = part.axes[c];
        // A row that repeats is loaded behind the place of its copies.
        let most = if row.from == 0 { most / 2 } else { most };
        let (rows, columns) = both((row.count, column.count), most, unit);
        (cuts[at].len, cuts[c].len) = (rows.min(1 << 24), columns.min(1 << 24));
        let joined = row.from == (column.count * size) as i64 && cuts[c].len == column.count;
        return Some(Form::Turn {
            row: at,
            column: Some(c),
            pitch: cuts[c].len * size,
            size,
            joined,
        });
    }
    if !(1..=SPAN).contains(&row.from) {
        return None;
    }
    let rows = fit(
        row.count,
        goal.saturating_sub(size) / row.from as u64 + 1,
        unit,
    );
    cuts[at].len = rows.min(1 << 24);
    Some(Form::Turn {
        row: at,
        column: None,
        pitch: row.from as u64,
        size,
        joined: true,
    })
}

fn rows(fill: bool, goal: u64, cuts: &mut [Cut]) -> Form {
    let last = cuts.len() - 1;
    // Every piece of a fill starts at the start of its buffer, so pieces are of whole elements: 3 bytes for FP6.
    let row = fit(cuts[last].axis.count, goal, 3 * REQUEST);
    cuts[last].len = row;
    let whole = row == cuts[last].axis.count;
    // Single elements side by side in the result are put side by side in SRAM.
    let dense = last
        .checked_sub(1)
        .filter(|i| cuts[*i].axis.to == row as i64 && whole);
    // An axis that repeats takes no room and saves loads, so it is in the box however short the row's is.
    let repeat = (0..last)
        .rev()
        .find(|i| cuts[*i].axis.from == 0 && !fill && Some(*i) != dense);
    let mut others = (0..last).rev().filter(|i| Some(*i) != repeat);
    let inner = others.next().filter(|_| whole);
    let outer = repeat.or(others.next().filter(|_| whole));
    // A fill takes no room either, but its pieces should not last much longer than others.
    let most = if fill { LONG * goal } else { goal } / row.max(1);
    let follows = |i: Option<usize>| i.filter(|i| cuts[*i].axis.from == row as i64 && !fill);
    let joined = follows(outer).or(follows(inner));
    let counts = |i: Option<usize>| i.map_or(1, |i| cuts[i].axis.count);
    let (mut a, mut b) = (1, fit(counts(inner), most, 1));
    if repeat.is_some() {
        a = fit(counts(outer), LONG, 1);
    } else if joined.is_some() && joined == outer {
        // The operand has the outer axis inside: short rows are longer there than in the result.
        let unit = (REQUEST / row.max(1)).max(1);
        (b, a) = both((counts(inner), counts(outer)), most, unit);
    } else if b == counts(inner) {
        a = fit(counts(outer), most / b.max(1), 1);
    }
    for (axis, len) in [(outer, a), (inner, b)] {
        if let Some(i) = axis {
            cuts[i].len = len.min(1 << 32);
        }
    }
    // In SRAM in the order of the operand, so that what follows there follows here.
    let step = |i: Option<usize>| i.map_or(0, |i| cuts[i].axis.from.unsigned_abs());
    let (x, y) = (step(outer), step(inner));
    let len = |i: Option<usize>| i.map_or(1, |i| cuts[i].len);
    let buffer = match (x, y) {
        _ if fill => (0, 0),
        (0, _) if dense.is_some() => (0, row),
        _ if dense.is_some() => (row * len(inner), row),
        (0, 0) => (0, 0),
        (0, _) => (0, row),
        (_, 0) => (row, 0),
        _ if x < y => (row, row * len(outer)),
        _ => (row * len(inner), row),
    };
    // Repeats of one row cannot join it, and a joined axis lies right behind it.
    let joined = joined.filter(|j| {
        let lies = if Some(*j) == outer {
            buffer.0
        } else {
            buffer.1
        };
        lies == row
    });
    Form::Rows {
        outer,
        inner,
        buffer,
        joined,
        dense: dense.is_some(),
    }
}
