//! How much of each tile's SRAM the ring of weights has.
//!
//! Models: the share of the SRAM that stays the ring's for the whole program, weighed against what other stages lose by it: experts have a
//! ring of their own, products of many rows and attention want large tiles. Decided from lower bounds and predicted cycles of the graph's
//! operations; leaves out what the ring is for ([`super::linear`]). Invariant: never more than asked for.

use super::steps;
use crate::chip::Chip;
use crate::compiler::attention::form::{known, v_in_k};
use crate::compiler::attention::schedules;
use crate::compiler::graph::{Graph, Kind, Node, Op as NodeOp, made_by};
use crate::compiler::linear::MAX_ROWS;
use crate::compiler::{Attention, Op};

/// Percent of a tile's SRAM at most in a graph with experts, which have a ring of their own.
const EXPERTS: u64 = 24;

/// Percent of it at most where it serves a small part of the work: enough to hide the memory's latency.
const SMALL: u64 = 10;

/// Bytes of each tile's SRAM for the ring of weights, if `percent` are asked for.
pub fn bytes(graph: &Graph, chip: &Chip, percent: u64) -> u64 {
    let mut most = percent.min(100);
    let grouped = |node: &Node| matches!(node.op, NodeOp::Grouped(_));
    if graph.nodes.iter().any(grouped) {
        most = most.min(EXPERTS);
    }
    if products_of_many_rows(graph, chip) {
        most = most.min(SMALL);
    }
    chip.tsram.size_bytes * left_by_attention(graph, chip, most) / 100
}

/// Whether a part of each tile's SRAM serves short stages better than large ones: where products of few rows are most of the work.
pub fn serves_short_stages(graph: &Graph, chip: &Chip) -> bool {
    !products_of_many_rows(graph, chip)
}

/// Whether products of many rows take longer than those that the ring serves, by lower bounds. All stages do without the ring, so a
/// small one leaves those their tiles.
fn products_of_many_rows(graph: &Graph, chip: &Chip) -> bool {
    let (mut few, mut many) = (0.0, 0.0);
    for node in &graph.nodes {
        let Some(Ok(op)) = steps::product_at(graph, node) else {
            continue;
        };
        let b = &graph[node.inputs[1]];
        let time = Op::Matmul(op).bound(chip).time_s;
        if op.m <= MAX_ROWS && matches!(b.kind, Kind::Constant(_)) {
            few += time;
        } else {
            many += time;
        }
    }
    many > few
}

/// The percentage, or less where attention would take half as long again in what that leaves: large heads (latents) want large blocks.
fn left_by_attention(graph: &Graph, chip: &Chip, asked: u64) -> u64 {
    let makers = made_by(graph);
    let mut ops: Vec<Attention> = Vec::new();
    for node in &graph.nodes {
        if let NodeOp::Attention(op) = &node.op {
            let shapes = [0, 1, 2].map(|i| &graph[node.inputs[i]].shape[..]);
            let dtype = graph[node.inputs[0]].dtype;
            match known(op, shapes, dtype, v_in_k(graph, &makers, node)) {
                Ok(op) if !ops.contains(&op) => ops.push(op),
                // The steps refuse it.
                _ => {}
            }
        }
    }
    let cycles = |op: &Attention, chip: &Chip| {
        let found = schedules(op, chip).ok()?;
        found.first().map(|s| s.cycles())
    };
    let fits = |percent: u64| {
        let mut left = chip.clone();
        left.tsram.size_bytes = chip.tsram.size_bytes * (100 - percent) / 100;
        ops.iter()
            .all(|op| match (cycles(op, chip), cycles(op, &left)) {
                (Some(whole), Some(left)) => left <= whole + whole / 2,
                (whole, _) => whole.is_none(),
            })
    };
    [asked, asked / 2, asked / 4]
        .into_iter()
        .find(|percent| fits(*percent))
        .unwrap_or(0)
}
