//! Where values lie, and for how long.
//!
//! Models: what has memory of its own ([`super::parts`] has the rest). The stream of weights is at address 0. What is given before the
//! run or wanted after it keeps its memory throughout; the others have it from the step that first writes them to the last that reads
//! them, and then leave it to others; so it is in the SRAM for what lies near ([`super::near`]). Leaves out: the SRAM of stages. Invariants: two roots whose lives overlap share no byte; roots are
//! 256-byte aligned; a part lies inside its root.

use super::ChainError;
use super::experts::Experts;
use super::linear::Layers;
use super::near;
use super::parts::{Parts, Pitch};
use super::sites::{LEAD, Sites};
use super::steps::Step;
use crate::chip::Chip;
use crate::compiler::graph::{Graph, Kind, Value, ValueId};
use std::collections::BTreeSet;

/// Alignment: the request size of the DMA engines.
const ALIGN: u64 = 256;

/// A range of HBM, or of the SRAM of every tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    pub offset: u64,
    pub bytes: u64,
    /// Whether it is one of SRAM.
    pub local: bool,
}

impl Area {
    /// Whether they share a byte.
    pub fn meets(&self, other: &Area) -> bool {
        self.local == other.local
            && self.offset < other.offset + other.bytes
            && other.offset < self.offset + self.bytes
    }
}

/// The plan of HBM.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    areas: Vec<Option<Area>>,
    /// SRAM of steps that begin before others end.
    apart: Vec<Option<Area>>,
    /// Of the values of the graph.
    pitches: Vec<Option<Pitch>>,
    symbols: Vec<String>,
    /// Of the cycles that tile 0 notes.
    pub marks: Area,
    /// Bytes of HBM from 0 that are used.
    pub bytes: u64,
}

impl Placement {
    /// Where a value lies.
    ///
    /// # Panics
    /// If no step reads or writes it and it is neither input nor output.
    pub fn area(&self, id: ValueId) -> Area {
        self.areas[id.0 as usize].expect("a placed value")
    }

    /// The SRAM that only this step has, from [`LEAD`] steps before it on.
    pub fn apart(&self, step: usize) -> Option<Area> {
        self.apart[step]
    }

    /// The gaps between its rows.
    pub fn pitch(&self, id: ValueId) -> Option<Pitch> {
        self.pitches[id.0 as usize]
    }

    /// Whether it lies anywhere.
    pub fn is_placed(&self, id: ValueId) -> bool {
        self.areas[id.0 as usize].is_some()
    }

    /// The program's tensor for the weights of a layer of the stream.
    pub fn layer_symbol(&self, weights: ValueId, layer: usize) -> String {
        format!("{}.layer{layer}", self.symbols[weights.0 as usize])
    }

    /// The program's tensor for the experts of a product.
    pub fn experts_symbol(&self, weights: ValueId, product: usize) -> String {
        format!("{}.experts{product}", self.symbols[weights.0 as usize])
    }

    /// The program's tensor for an input, output or constant.
    pub fn symbol(&self, id: ValueId) -> String {
        self.symbols[id.0 as usize].clone()
    }
}

/// Plans HBM, and SRAM for what lies near, for steps; `beside` are the bytes of values behind those of the graph.
///
/// # Errors
/// Values that do not fit.
pub fn place(
    graph: &Graph,
    parts: &Parts,
    (layers, experts, near): (&Layers, &Experts, &near::Plan),
    steps: &[Step],
    beside: &[u64],
    sites: &Sites,
    chip: &Chip,
) -> Result<Placement, ChainError> {
    // First and last step that needs a root; none: it has no memory.
    let values = graph.values.len();
    let all = values + beside.len();
    let bytes = |i: usize| match i.checked_sub(values) {
        None => graph.values[i].bytes(),
        Some(other) => beside[other],
    };
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; all];
    let mut live = |id: ValueId, step: usize| {
        let root = match (id.0 as usize) < values {
            true => parts.root(id).of,
            false => id,
        };
        let life = &mut lives[root.0 as usize];
        let (first, last) = life.unwrap_or((step, step));
        *life = Some((first.min(step), last.max(step)));
    };
    let end = steps.len();
    for (n, step) in steps.iter().enumerate() {
        for id in step.reads.iter().map(|r| &r.value).chain(&step.writes) {
            live(*id, n);
            let kind = graph.values.get(id.0 as usize).map(|v| &v.kind);
            let given = matches!(kind, Some(Kind::Constant(_) | Kind::Input));
            if given || experts.is_packed(*id) {
                live(*id, 0);
                live(*id, end);
            }
        }
    }
    for id in graph.inputs.iter().chain(&graph.outputs) {
        live(*id, 0);
        live(*id, end);
    }
    // What stays lies in front, in the order of the graph; the marks behind it.
    let whole = |life: &(usize, usize)| *life == (0, end);
    let mut areas: Vec<Option<Area>> = vec![None; all];
    let put = |bytes: u64, at: &mut u64| {
        let area = Area {
            offset: *at,
            bytes,
            local: false,
        };
        let after = at.saturating_add(bytes).checked_next_multiple_of(ALIGN);
        *at = after.unwrap_or(u64::MAX);
        area
    };
    let mut next = 0u64;
    let stream = layers.stream.as_ref().map_or(0, |s| s.bytes);
    put(stream, &mut next);
    for (i, life) in lives.iter().enumerate() {
        if life.as_ref().is_some_and(whole) {
            areas[i] = Some(put(bytes(i), &mut next));
        }
    }
    let marks = put(8 * (end as u64 + 1), &mut next);
    let fixed = next;
    let mut used = fixed;
    let apart = close(near, &lives, &bytes, &mut areas, sites);
    // The others, in the order in which they come to life, each at the lowest free place.
    let mut order: Vec<(usize, usize, usize)> = lives
        .iter()
        .enumerate()
        .filter_map(|(i, life)| {
            life.filter(|l| !whole(l) && areas[i].is_none())
                .map(|(first, last)| (first, i, last))
        })
        .collect();
    order.sort_unstable();
    // Offset, end and last step of those alive.
    let mut alive: BTreeSet<(u64, u64, usize)> = BTreeSet::new();
    for (first, value, last) in order {
        alive.retain(|(_, _, until)| *until >= first);
        let bytes = bytes(value);
        let mut at = fixed;
        for (offset, end, _) in &alive {
            if at.saturating_add(bytes) <= *offset {
                break;
            }
            at = at.max(*end);
        }
        let mut after = at;
        let area = put(bytes, &mut after);
        alive.insert((area.offset, after, last));
        used = used.max(after);
        areas[value] = Some(area);
    }
    if used > chip.hbm_bytes() {
        return Err(ChainError::Hbm {
            needed: used,
            limit: chip.hbm_bytes(),
            chip: chip.name.clone(),
        });
    }
    for i in 0..values {
        let part = parts.root(ValueId(i as u32));
        let pitched = part.pitch.map(|p| {
            // Up to the end of the last row; the gaps are others'.
            let rows = graph.values[i].elements() / p.cols.max(1);
            let elements = rows.saturating_sub(1) * p.step + p.cols;
            graph.values[i].dtype.bytes_for(elements)
        });
        areas[i] = areas[part.of.0 as usize].map(|area| Area {
            offset: area.offset + part.offset,
            bytes: pitched.unwrap_or(graph.values[i].bytes()),
            ..area
        });
    }
    let pitches = (0..values).map(|i| parts.root(ValueId(i as u32)).pitch);
    Ok(Placement {
        pitches: pitches.collect(),
        areas,
        apart,
        symbols: symbols(graph),
        marks,
        bytes: used,
    })
}

/// Places in SRAM what may be there: values, whose areas it sets, and steps, whose areas it returns.
fn close(
    near: &near::Plan,
    lives: &[Option<(usize, usize)>],
    bytes: &dyn Fn(usize) -> u64,
    areas: &mut [Option<Area>],
    sites: &Sites,
) -> Vec<Option<Area>> {
    let mut ranges = Vec::new();
    // Values by their numbers, steps behind them.
    let mut of = Vec::new();
    for (i, life) in lives.iter().enumerate() {
        if let (true, None, Some((first, last))) = (near.local[i], areas[i], life) {
            ranges.push((*first, *last, bytes(i)));
            of.push(i);
        }
    }
    let values = of.len();
    for (n, apart) in near.apart.iter().enumerate() {
        if let Some(apart) = apart {
            ranges.push((n.saturating_sub(LEAD), n, apart.bytes));
            of.push(n);
        }
    }
    let mut steps = vec![None; near.apart.len()];
    let found = near::ranges(&ranges, sites.near.bytes);
    for (i, at) in found.into_iter().enumerate() {
        let area = at.map(|at| Area {
            offset: sites.near.tsram + at,
            bytes: ranges[i].2,
            local: true,
        });
        match i < values {
            true => areas[of[i]] = area,
            false => steps[of[i]] = area,
        }
    }
    steps
}

/// Whether a name is one that a program of a chain gives itself, or may: tensors and labels beside the graph's, scopes of stages, whose
/// names begin with theirs, and the weights of a layer, whose name ends so.
fn is_own(name: &str) -> bool {
    let first = name.split('.').next().unwrap_or_default();
    let ours = ["linear_", "stage_", "all_done", "ahead_"]
        .iter()
        .any(|p| first.starts_with(p))
        || first == super::MARKS;
    let numbered = |text: &str, word: &str| {
        let rest = text.strip_prefix(word);
        rest.is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    ours || numbered(first, "stage")
        || numbered(first, "ahead")
        || (last != name && numbered(last, "layer"))
}

/// Names of the assembler for values of a graph: what is no letter, digit, `_` or `.` becomes `_`; names that would then be
/// taken, or those of registers, get the value's number in front.
fn symbols(graph: &Graph) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let name = |(i, value): (usize, &Value)| {
        let fine = |c: char| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '.' => c,
            _ => '_',
        };
        let plain: String = value.name.chars().map(fine).collect();
        let letter = plain.starts_with(|c: char| c.is_ascii_alphabetic());
        let mut symbol = plain.clone();
        let fits = letter && crate::asm::is_plain(&plain) && !is_own(&plain);
        if !fits || !taken.insert(symbol.clone()) {
            symbol = format!("t{i}_{plain}");
            taken.insert(symbol.clone());
        }
        symbol
    };
    graph.values.iter().enumerate().map(name).collect()
}
