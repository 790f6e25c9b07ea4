//! The program of a chain: stages one after the other, each in a scope, with the semaphores between them.
//!
//! Models: declarations of what the graph gives and wants, waits in front of stages, signals behind them, the cycles that tile 0 notes. What
//! a stage may do before its operands are there (loads of experts, names and constants of row-wise stages) stands in front of the waits, or
//! [`LEAD`] stages before it, so it is no part of the stage's noted time. A stage that can tells all tiles with its last transfer that a tile is done;
//! behind the others control does.
//! Leaves out: what stages do. Invariants: semaphores 0 to 2 [`WINDOW`] - 1 are those of stages, s mod 2 `WINDOW` that of stage s; the
//! first bytes of each tile's SRAM are its marks.

use super::experts::Experts;
use super::linear::Layers;
use super::near;
use super::place::{Area, Placement};
use super::sites::{LEAD, READY, Sites};
use super::steps::{Step, Work, total};
use super::{ChainError, MARKS, StageInfo, WINDOW};
use crate::chip::{Chip, cost};
use crate::compiler::emit::Text;
use crate::compiler::graph::{Graph, Kind, ValueId};
use crate::compiler::op::{Bound, BoundUnit};
use crate::compiler::stage::{MOST_TILES, Stage};
use crate::compiler::{Op, Plan};
use std::collections::BTreeSet;

/// A step's stage.
struct Lowered {
    /// In front of the stage that is [`LEAD`] before it.
    ahead: String,
    /// In front of the waits.
    early: String,
    /// Whether it tells all tiles that a tile is done.
    tells: bool,
    stage: Stage,
}

/// A written program.
pub struct Written {
    pub text: String,
    /// Of each stage.
    pub plans: Vec<Plan>,
}

/// The stages for people and reports, with their plans.
pub fn described(
    graph: &Graph,
    steps: &[Step],
    plans: Vec<Plan>,
    placement: &Placement,
    chip: &Chip,
) -> Vec<StageInfo> {
    let each = steps.iter().zip(plans).map(|(step, plan)| {
        let (read, written) = step.work.hbm_bytes();
        let values = step
            .reads
            .iter()
            .map(|r| r.value)
            .chain(step.writes.clone());
        let areas = values.map(|id| placement.area(id));
        // What lies in SRAM crosses no HBM.
        let local: u64 = areas.filter(|a| a.local).map(|a| a.bytes).sum();
        let hbm_bytes = (read + written).saturating_sub(local);
        let mut units = step.work.bound(chip).units;
        if local > 0 {
            let peak = cost::hbm_peak_bytes_per_s(chip).max(1) as f64;
            for (unit, time) in &mut units {
                if *unit == BoundUnit::Hbm {
                    *time = hbm_bytes as f64 / peak;
                }
            }
        }
        StageInfo {
            place: graph.nodes[step.node].place.clone(),
            op: step.work.to_string(),
            bound: Bound::of(units),
            flops: step.work.flops(),
            hbm_bytes,
            plan,
        }
    });
    each.collect()
}

/// Writes the program.
///
/// # Errors
/// A chip that is too small for any stage; a stage that has no plan.
pub fn write(
    graph: &Graph,
    (layers, experts, near): (&Layers, &Experts, &near::Plan),
    sites: &Sites,
    steps: &[Step],
    placement: &Placement,
    chip: &Chip,
) -> Result<Written, ChainError> {
    let stream = layers.stream.as_ref();
    let needs = needs(steps, placement);
    let mut text = Text::default();
    let mut plans = Vec::new();
    let mut lowered = Vec::new();
    for (s, step) in steps.iter().enumerate() {
        let node = &graph.nodes[step.node];
        let apart = near.apart[s].as_ref().zip(placement.apart(s));
        let mut site = match &apart {
            Some((_, area)) => near::site(&sites.near, &sites.other, s, area),
            None => step.work.site(sites).clone(),
        };
        for r in &step.reads {
            let area = placement.area(r.value);
            site.tensors.push(area.offset + r.plus);
            site.local.push(area.local);
        }
        for id in &step.writes {
            let area = placement.area(*id);
            site.tensors.push(area.offset);
            site.local.push(area.local);
        }
        let tells = apart.is_some() || matches!(step.work, Work::Layer { .. });
        if tells && s + 1 < steps.len() && chip.tiles() <= MOST_TILES {
            site.done = Some((s % READY) as u64);
        }
        let refuse = |error| ChainError::Stage {
            place: node.place.to_string(),
            error,
        };
        let (ahead, early, stage) = match (&step.work, apart) {
            (Work::Op(Op::Rowwise(program)), Some((apart, _))) => {
                let made = apart.planned.split(program, &site, &apart.ahead);
                let made = made.map_err(refuse)?;
                let ahead = match apart.ahead.contains(&true) {
                    true => made.ahead,
                    false => String::new(),
                };
                (ahead, made.early, made.stage)
            }
            _ => {
                let made = step.work.stage(&site, sites, stream);
                let (early, stage) = made.map_err(refuse)?;
                (String::new(), early, stage)
            }
        };
        plans.push(stage.plan.clone());
        lowered.push(Lowered {
            ahead,
            early,
            tells: site.done.is_some(),
            stage,
        });
    }
    text.comment(&format!(
        "Compiled for chip `{}`.\n\n{}: {} stages",
        chip.name,
        graph.name,
        steps.len()
    ));
    text.blank();
    let given = (layers, experts);
    declare(&mut text, graph, given, placement, steps, sites.marks);
    text.blank();
    text.directive(".tile");
    let at_once = chip.tiles() <= MOST_TILES;
    if at_once {
        text.block(".kernel stage_tell # nothing: what it signals when it retires goes to all tiles at once\nvret");
        text.directive(".tile");
    }
    if let Some(stream) = stream {
        // Its names are those of every layer's stage.
        text.raw(&stream.start());
    }
    let mut waited = 0;
    for (s, (step, made)) in steps.iter().zip(&lowered).enumerate() {
        let Lowered { early, stage, .. } = made;
        let first = if s == 0 { 0 } else { s + LEAD };
        for (n, later) in lowered.iter().enumerate().take(s + LEAD + 1).skip(first) {
            if !later.ahead.is_empty() {
                text.blank();
                text.directive(&format!(".scope ahead{n}"));
                text.comment(&format!("What stage {n} needs and is there."));
                text.raw(&later.ahead);
                text.directive(".endscope");
            }
        }
        text.blank();
        text.directive(&format!(".scope stage{s}"));
        text.comment(&format!("{}: {}", graph.nodes[step.node].place, step.work));
        if !early.is_empty() {
            let until = early_needs(steps, placement, s);
            wait(&mut text, &mut waited, until, chip);
            text.raw(early);
        }
        // Before the first write to another tile's SRAM that tile is done with the stage before.
        let crossed = if stage.crosses { s } else { 0 };
        let until = needs[s].max(crossed).max((s + 1).saturating_sub(WINDOW));
        wait(&mut text, &mut waited, until, chip);
        // Registers that the early part of a stage leaves alone.
        let free = match step.work {
            Work::Op(Op::Rowwise(_)) => ["r30", "r31"],
            _ => ["r1", "r2"],
        };
        mark(&mut text, s, free);
        text.raw(&stage.text);
        text.directive(".tile");
        if s + 1 < steps.len() && !made.tells && at_once {
            text.block(&format!(
                "li r1, {}
                 signal.tiles r1, {}, 1 # this tile is done with stage {s}
                 vrun stage_tell, r1, 0",
                sites.other.all_tiles(),
                s % READY
            ));
        } else if s + 1 < steps.len() && !made.tells {
            text.block(&format!(
                "li r1, 0
                 rdsr r2, tiles
                 stage_done:
                 sem.post r1, {}, 1 # this tile is done with stage {s}
                 addi r1, r1, 1
                 blt r1, r2, stage_done",
                s % READY
            ));
        }
        text.directive(".endscope");
    }
    text.blank();
    wait(&mut text, &mut waited, steps.len().saturating_sub(1), chip);
    mark(&mut text, steps.len(), ["r1", "r2"]);
    text.block(&format!(
        "rdsr r1, tile
         bne r1, r0, all_done
         li r2, addr(stage_marks)
         li r3, addr({MARKS})
         li r4, {}
         dma.u8.u8 0, r3, r2, r4
         all_done:
         halt",
        8 * (steps.len() + 1)
    ));
    notes(&mut text, graph, given, steps, placement, chip);
    Ok(Written {
        text: text.finish(),
        plans,
    })
}

/// For each step how many stages from the first must be done before it: one more than the last that wrote what it reads, or
/// read or wrote what it writes. Only the [`WINDOW`] stages before it are looked at, it waits for all others anyway.
fn needs(steps: &[Step], placement: &Placement) -> Vec<usize> {
    let areas = |(n, s): (usize, &Step)| -> (Vec<Area>, Vec<Area>) {
        let reads = s.reads.iter().map(|r| placement.area(r.value));
        let writes = s.writes.iter().map(|id| placement.area(*id));
        // Nobody sends anything to where a tile still works.
        let own = placement.apart(n);
        (reads.chain(own).collect(), writes.collect())
    };
    let all: Vec<(Vec<Area>, Vec<Area>)> = steps.iter().enumerate().map(areas).collect();
    let meet = |a: &[Area], b: &[Area]| a.iter().any(|x| b.iter().any(|y| x.meets(y)));
    let need = |(n, (reads, writes)): (usize, &(Vec<Area>, Vec<Area>))| {
        let first = n.saturating_sub(WINDOW);
        let before = all[first..n].iter().rposition(|(read, written)| {
            meet(reads, written) || meet(writes, written) || meet(writes, read)
        });
        before.map_or(0, |s| first + s + 1)
    };
    all.iter().enumerate().map(need).collect()
}

/// As [`needs`] of the operands that the early part of a step reads.
fn early_needs(steps: &[Step], placement: &Placement, s: usize) -> usize {
    let reads = steps[s].work.early_reads().iter();
    let read: Vec<Area> = reads
        .map(|i| placement.area(steps[s].reads[*i].value))
        .collect();
    let writes = |step: &Step| {
        let mut written = step.writes.iter().map(|id| placement.area(*id));
        written.any(|w| read.iter().any(|r| r.meets(&w)))
    };
    steps[..s].iter().rposition(writes).map_or(0, |at| at + 1)
}

/// Waits until all tiles are done with the stages before `until`.
fn wait(text: &mut Text, waited: &mut usize, until: usize, chip: &Chip) {
    for s in *waited..until {
        text.inst_c(
            &format!("sem.wait {}, {}", s % READY, chip.tiles()),
            &format!("all tiles are done with stage {s}"),
        );
    }
    *waited = until.max(*waited);
}

/// Notes the cycle.
fn mark(text: &mut Text, s: usize, [cycle, at]: [&str; 2]) {
    text.block(&format!(
        "rdsr {cycle}, cycle
         li {at}, addr(stage_marks) + {}
         sd {cycle}, 0({at})",
        8 * s
    ));
}

fn declare(
    text: &mut Text,
    graph: &Graph,
    (layers, experts): (&Layers, &Experts),
    placement: &Placement,
    steps: &[Step],
    marks: u64,
) {
    let mut tensor = |symbol: &str, dtype: &str, shape: &[u64], class: &str, at: u64, pitch| {
        let dims: Vec<String> = shape.iter().map(u64::to_string).collect();
        let dims = if dims.is_empty() {
            "1".to_owned()
        } else {
            dims.join(", ")
        };
        let pitch = match pitch {
            Some(bytes) => format!(", pitch {bytes}"),
            None => String::new(),
        };
        text.directive(&format!(
            ".tensor {symbol}, hbm, {dtype}, [{dims}], {class}, at {at:#x}{pitch}"
        ));
    };
    // What steers the program is there without data, too.
    let indices: BTreeSet<ValueId> = (steps.iter())
        .filter(|s| matches!(s.work, Work::Gather(_) | Work::Grouped(..)))
        .map(|s| s.reads[1].value)
        .collect();
    for (i, value) in graph.values.iter().enumerate() {
        let id = ValueId(i as u32);
        let named = match value.kind {
            Kind::Input | Kind::Output => true,
            Kind::Constant(_) => placement.is_placed(id),
            Kind::Intermediate => false,
        };
        if named {
            let class = if indices.contains(&id) {
                "control"
            } else {
                "payload"
            };
            let at = placement.area(id).offset;
            let gaps = placement.pitch(id);
            let shape = match gaps {
                Some(p) => vec![value.elements() / p.cols, p.cols],
                None => value.shape.clone(),
            };
            let pitch = gaps.map(|p| value.dtype.bytes_for(p.step));
            let (symbol, dtype) = (placement.symbol(id), value.dtype.name());
            tensor(&symbol, dtype, &shape, class, at, pitch);
        }
    }
    if let Some(stream) = &layers.stream {
        for (n, layer) in layers.all.iter().enumerate() {
            let range = stream.range(n);
            let symbol = placement.layer_symbol(layer.weights, n);
            let at = stream.hbm + range.start;
            let bytes = range.end - range.start;
            tensor(&symbol, "u8", &[bytes], "payload", at, None);
        }
    }
    for (n, expert) in experts.all.iter().enumerate() {
        let symbol = placement.experts_symbol(expert.weights, n);
        let area = placement.area(expert.packed);
        tensor(&symbol, "u8", &[area.bytes], "payload", area.offset, None);
    }
    let count = 8 * (steps.len() as u64 + 1);
    let at = placement.marks.offset;
    tensor(MARKS, "u8", &[count], "control", at, None);
    text.directive(&format!(
        ".tensor stage_marks, tsram, u8, [{marks}], control, at 0"
    ));
}

/// What `run` shows beside the cycles.
fn notes(
    text: &mut Text,
    graph: &Graph,
    (layers, experts): (&Layers, &Experts),
    steps: &[Step],
    placement: &Placement,
    chip: &Chip,
) {
    let given: u64 = (0..graph.values.len())
        .map(|i| crosses(graph, steps, placement, ValueId(i as u32)))
        .sum();
    let bytes_of = |id: ValueId| graph[id].bytes();
    let streamed = |l: &super::linear::Layer| bytes_of(l.weights) + l.scales.map_or(0, bytes_of);
    let weights: u64 = layers.all.iter().map(streamed).sum();
    let used = experts
        .all
        .iter()
        .map(|e| e.ids.least * e.packing.op.expert_bytes());
    let bytes = given + weights + used.sum::<u64>();
    let hbm = bytes as f64 / cost::hbm_peak_bytes_per_s(chip).max(1) as f64;
    let bound = total(steps.iter().map(|s| s.work.bound(chip)), hbm);
    let flops: u128 = steps.iter().map(|s| s.work.flops()).sum();
    text.blank();
    text.comment("For `run` and `bench`.");
    text.note("op", &graph.name);
    text.note("chip", &chip.name);
    text.note("flops", &flops.to_string());
    text.note("bound", bound.unit.name());
    text.note("bound_time_s", &format!("{:e}", bound.time_s));
    if let Some(what) = experts.assumed() {
        text.note("bound_experts", &what);
    }
}

/// Bytes of a value of the graph that must cross HBM: an output's that a step makes, of what is given as many as the steps read of it at least,
/// through whichever value they see it.
fn crosses(graph: &Graph, steps: &[Step], placement: &Placement, id: ValueId) -> u64 {
    let value = &graph[id];
    if value.kind == Kind::Intermediate || !placement.is_placed(id) {
        return 0;
    }
    let (own, bytes) = (placement.area(id), value.bytes());
    if value.kind == Kind::Output {
        let mut written = steps.iter().flat_map(|s| &s.writes);
        let made = written.any(|w| placement.area(*w).meets(&own));
        return if made { bytes } else { 0 };
    }
    let mut most = 0;
    // Ranges of it that are read as a whole.
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for step in steps {
        for (n, read) in step.reads.iter().enumerate() {
            let area = placement.area(read.value);
            if !area.meets(&own) {
                continue;
            }
            let Some(seen) = graph.values.get(read.value.0 as usize) else {
                continue;
            };
            let size = seen.bytes().saturating_sub(read.plus);
            let least = step.work.least_read(n, size);
            let pitched = placement.pitch(read.value).is_some();
            let (first, end) = (area.offset + read.plus, area.offset + area.bytes);
            let (from, to) = (own.offset, own.offset + own.bytes);
            if read.value == id {
                most = most.max(least);
            } else if pitched {
                // How much of it lies in the gaps of the other is not asked.
            } else if from <= first && end <= to {
                most = most.max(least);
                if least == size {
                    ranges.push((first, end));
                }
            } else if first <= from && to <= end {
                // All of it lies in what is read; the least may leave out so much and still read all else.
                most = most.max(least.saturating_sub(size - bytes.min(size)));
            }
        }
    }
    ranges.sort_unstable();
    let (mut union, mut last) = (0, 0);
    for (first, end) in ranges {
        union += end.saturating_sub(first.max(last));
        last = last.max(end);
    }
    most.max(union).min(bytes)
}
