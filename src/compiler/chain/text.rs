//! The program of a chain: stages one after the other, each in a scope, with the semaphores between them.
//!
//! Models: declarations of what the graph gives and wants, waits in front of stages, signals behind them, the cycles that tile 0 notes. What
//! a stage may do before its operands are there (loads of experts) stands in front of the waits, so it is no part of the stage's noted time.
//! Leaves out: what stages do. Invariants: semaphores 0 to 2 [`WINDOW`] - 1 are those of stages, s mod 2 `WINDOW` that of stage s; the
//! first bytes of each tile's SRAM are its marks.

use super::experts::Experts;
use super::linear::Layers;
use super::place::{Area, Placement};
use super::sites::{READY, Sites};
use super::steps::{Step, Work, total};
use super::{ChainError, MARKS, StageInfo, WINDOW};
use crate::chip::{Chip, cost};
use crate::compiler::Plan;
use crate::compiler::emit::Text;
use crate::compiler::graph::{Graph, Kind, Value, ValueId};
use crate::compiler::stage::Site;
use std::collections::{BTreeMap, BTreeSet};

/// A written program.
pub struct Written {
    pub text: String,
    /// Of each stage.
    pub plans: Vec<Plan>,
}

/// The stages for people and reports, with their plans.
pub fn described(graph: &Graph, steps: &[Step], plans: Vec<Plan>, chip: &Chip) -> Vec<StageInfo> {
    let each = steps.iter().zip(plans).map(|(step, plan)| {
        let (read, written) = step.work.hbm_bytes();
        StageInfo {
            place: graph.nodes[step.node].place.clone(),
            op: step.work.to_string(),
            bound: step.work.bound(chip),
            flops: step.work.flops(),
            hbm_bytes: read + written,
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
    layers: &Layers,
    experts: &Experts,
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
    for step in steps {
        let node = &graph.nodes[step.node];
        let reads = step.reads.iter();
        let reads = reads.map(|r| placement.area(r.value).offset + r.plus);
        let writes = step.writes.iter().map(|id| placement.area(*id).offset);
        let site = Site {
            tensors: reads.chain(writes).collect(),
            ..step.work.site(sites).clone()
        };
        let stage = step.work.stage(&site, sites, stream);
        let (early, stage) = stage.map_err(|error| ChainError::Stage {
            place: node.place.to_string(),
            error,
        })?;
        plans.push(stage.plan.clone());
        lowered.push((early, stage));
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
    if let Some(stream) = stream {
        // Its names are those of every layer's stage.
        text.raw(&stream.start());
    }
    let mut waited = 0;
    for (s, (step, (early, stage))) in steps.iter().zip(&lowered).enumerate() {
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
        mark(&mut text, s);
        text.raw(&stage.text);
        text.directive(".tile");
        if s + 1 < steps.len() {
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
    mark(&mut text, steps.len());
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
/// read or wrote what it writes.
fn needs(steps: &[Step], placement: &Placement) -> Vec<usize> {
    let areas = |s: &Step| -> (Vec<Area>, Vec<Area>) {
        let reads = s.reads.iter().map(|r| placement.area(r.value));
        let writes = s.writes.iter().map(|id| placement.area(*id));
        (reads.collect(), writes.collect())
    };
    let all: Vec<(Vec<Area>, Vec<Area>)> = steps.iter().map(areas).collect();
    let meet = |a: &[Area], b: &[Area]| a.iter().any(|x| b.iter().any(|y| x.meets(y)));
    let need = |(n, (reads, writes)): (usize, &(Vec<Area>, Vec<Area>))| {
        let before = all[..n].iter().rposition(|(read, written)| {
            meet(reads, written) || meet(writes, written) || meet(writes, read)
        });
        before.map_or(0, |s| s + 1)
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
fn mark(text: &mut Text, s: usize) {
    text.block(&format!(
        "rdsr r1, cycle
         li r2, addr(stage_marks) + {}
         sd r1, 0(r2)",
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
    // What must cross HBM: outputs, weights, and of what else is given as much as the steps read of it.
    let mut read: BTreeMap<ValueId, u64> = BTreeMap::new();
    for step in steps {
        for (n, r) in step.reads.iter().enumerate() {
            let least = match &step.work {
                Work::Gather(op) if n == 0 => op.result_bytes(),
                _ => u64::MAX,
            };
            let bytes = read.entry(r.value).or_default();
            *bytes = bytes.saturating_add(least);
        }
    }
    // A cache is read as a part of what it grows to.
    let wider: Vec<Area> = (steps.iter().flat_map(|s| &s.reads))
        .filter(|r| {
            let value = graph.values.get(r.value.0 as usize);
            value.is_some_and(|v| v.kind == Kind::Intermediate)
        })
        .map(|r| placement.area(r.value))
        .collect();
    let crosses = |(i, value): (usize, &Value)| match value.kind {
        Kind::Input | Kind::Constant(_) => {
            let id = ValueId(i as u32);
            let inside = || wider.iter().any(|area| area.meets(&placement.area(id)));
            match read.get(&id) {
                Some(bytes) => value.bytes().min(*bytes),
                None if placement.is_placed(id) && inside() => value.bytes(),
                None => 0,
            }
        }
        Kind::Output => value.bytes(),
        Kind::Intermediate => 0,
    };
    let given: u64 = graph.values.iter().enumerate().map(crosses).sum();
    let bytes_of = |id: ValueId| graph[id].bytes();
    let streamed = |l: &super::linear::Layer| bytes_of(l.weights) + l.scales.map_or(0, bytes_of);
    let weights: u64 = layers.all.iter().map(streamed).sum();
    // Of the experts those that can have rows.
    let used = |e: &super::experts::Expert| e.packing.op.used() * e.packing.op.expert_bytes();
    let bytes = given + weights + experts.all.iter().map(used).sum::<u64>();
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
}
