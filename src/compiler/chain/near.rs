//! Small values in the SRAM of every tile, and row-wise stages whose constants are there before they are wanted.
//!
//! Models: between the products of a step of decoding stand many short stages that depend on each other. Through HBM each would take a read
//! and a write of it, about a microsecond. So a value of few bytes lies in the SRAM of all tiles, at one offset: who makes a part of it
//! sends that to all of them, and who reads it finds it next door. And a row-wise stage with one strip a tile has SRAM and semaphores of
//! its own, which hold its constants some stages ahead ([`LEAD`]): what is left between the end of one stage and that of the next is a
//! transfer from SRAM, a kernel, a transfer to the other tiles and what it signals when it is there. Leaves out: where in the SRAM
//! these lie ([`super::place`]). Invariants: a local value is made and read by stages only, and by such as can; what does not fit lies in
//! HBM, what has no place of its own begins when its operands are there.

use super::experts::Experts;
use super::parts::Parts;
use super::place::Area;
use super::sites::{LEAD, NEAR_SEMAPHORES, Near, Sites};
use super::steps::{Step, Work};
use crate::compiler::graph::{Graph, Kind, ValueId};
use crate::compiler::rowwise::{self, Planned, Rowwise};
use crate::compiler::stage::Site;
use crate::compiler::{CompileError, Op};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Most bytes of a local value: what reaches every tile in about the time of one latency of HBM.
const MOST: u64 = 64 << 10;

/// A row-wise stage that may begin before others end.
#[derive(Clone, Debug)]
pub struct Apart {
    pub planned: Arc<Planned>,
    /// Of its own area of SRAM.
    pub bytes: u64,
    /// Of each input whether it is there before the program starts.
    pub ahead: Vec<bool>,
}

/// What may lie near.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Of each value, those beside the graph's included, whether it may be local; of values that lie in others nothing is said.
    pub local: Vec<bool>,
    /// Of each step.
    pub apart: Vec<Option<Apart>>,
}

impl Plan {
    /// Finds what may lie near; nothing if the sites leave no room for it. `values`: how many there are.
    ///
    /// # Errors
    /// A row-wise program that has no form on this chip.
    pub fn of(
        graph: &Graph,
        parts: &Parts,
        experts: &Experts,
        steps: &[Step],
        sites: &Sites,
        bytes: &dyn Fn(usize) -> u64,
        values: usize,
    ) -> Result<Plan, (usize, CompileError)> {
        if sites.near.bytes == 0 {
            return Ok(Plan {
                local: vec![false; values],
                apart: vec![None; steps.len()],
            });
        }
        let local = local(graph, parts, experts, steps, sites, values);
        let mut known: Vec<(Rowwise, Arc<Planned>)> = Vec::new();
        let mut apart = Vec::with_capacity(steps.len());
        for (n, step) in steps.iter().enumerate() {
            let Work::Op(Op::Rowwise(program)) = &step.work else {
                apart.push(None);
                continue;
            };
            // Layers of a model repeat.
            let planned = match known.iter().find(|(p, _)| p == program) {
                Some((_, planned)) => planned.clone(),
                None => {
                    let made = rowwise::planned(program, &sites.other).map_err(|e| (n, e))?;
                    let made = Arc::new(made);
                    known.push((program.clone(), made.clone()));
                    made
                }
            };
            let needs = planned.apart(&sites.other.chip);
            apart.push(needs.filter(|n| n.1 <= NEAR_SEMAPHORES).map(|(bytes, _)| {
                Apart {
                    planned,
                    bytes,
                    ahead: (step.reads.iter())
                        .map(|r| is_there(graph, parts, steps, r.value))
                        .collect(),
                }
            }));
        }
        let local = (0..values).map(|v| local[v] && bytes(v) <= MOST).collect();
        Ok(Plan { local, apart })
    }
}

/// Whether a value is there before the program starts, for good.
fn is_there(graph: &Graph, parts: &Parts, steps: &[Step], id: ValueId) -> bool {
    let Some(value) = graph.values.get(id.0 as usize) else {
        return false;
    };
    match value.kind {
        Kind::Constant(_) => parts.root(id).of == id,
        // Nobody writes over it, if it lies in nothing else.
        Kind::Input => parts.root(id).of == id && steps.iter().all(|s| !s.writes.contains(&id)),
        Kind::Intermediate => {
            let root = parts.root(id).of;
            root != id && matches!(graph[root].kind, Kind::Constant(_))
        }
        Kind::Output => false,
    }
}

/// Which roots all steps can make and read in SRAM.
fn local(
    graph: &Graph,
    parts: &Parts,
    experts: &Experts,
    steps: &[Step],
    sites: &Sites,
    values: usize,
) -> Vec<bool> {
    let root = |id: ValueId| match (id.0 as usize) < graph.values.len() {
        true => parts.root(id).of.0 as usize,
        false => id.0 as usize,
    };
    let mut made = vec![false; values];
    let mut read = vec![false; values];
    let mut fine: Vec<bool> = (0..values)
        .map(|v| match graph.values.get(v) {
            Some(value) => value.kind == Kind::Intermediate,
            None => !experts.is_packed(ValueId(v as u32)),
        })
        .collect();
    for (v, value) in graph.values.iter().enumerate() {
        // What is set from outside, or read there, is so in HBM.
        if value.kind != Kind::Intermediate {
            fine[root(ValueId(v as u32))] = false;
        }
    }
    for step in steps {
        for (i, r) in step.reads.iter().enumerate() {
            let of = root(r.value);
            fine[of] = fine[of] && made[of] && step.work.reads_local(i);
            read[of] = true;
        }
        for (i, id) in step.writes.iter().enumerate() {
            let of = root(*id);
            fine[of] = fine[of] && step.work.writes_local(i, sites);
            made[of] = true;
        }
    }
    (0..values).map(|v| fine[v] && read[v]).collect()
}

/// The site of a step that has an area of its own.
pub fn site(near: &Near, other: &Site, step: usize, area: &Area) -> Site {
    let mut site = other.clone();
    site.tsram = area.offset;
    site.chip.tsram.size_bytes = area.bytes;
    site.chip.semaphores.count = NEAR_SEMAPHORES as u32;
    site.semaphore = near.semaphore + (step % (LEAD + 1)) as u64 * NEAR_SEMAPHORES;
    site
}

/// Offsets of ranges that live from a step to another, in the order of their first steps: each behind the one before it where there
/// is room, so that what is written seldom lies where something has just been read. None: it has no place.
pub fn ranges(lives: &[(usize, usize, u64)], room: u64) -> Vec<Option<u64>> {
    let mut order: Vec<usize> = (0..lives.len()).collect();
    order.sort_by_key(|i| lives[*i].0);
    let mut alive: BTreeSet<(u64, u64, usize)> = BTreeSet::new();
    let mut found = vec![None; lives.len()];
    let mut cursor = 0;
    for i in order {
        let (first, last, bytes) = lives[i];
        alive.retain(|(_, _, until)| *until >= first);
        let bytes = bytes.max(1).next_multiple_of(256);
        let fit = |from: u64| {
            let mut at = from;
            for (offset, end, _) in &alive {
                if at + bytes <= *offset {
                    break;
                }
                at = at.max(*end);
            }
            (at + bytes <= room).then_some(at)
        };
        if let Some(at) = fit(cursor).or_else(|| fit(0)) {
            alive.insert((at, at + bytes, last));
            cursor = at + bytes;
            found[i] = Some(at);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_live_together_share_nothing() {
        let lives = [
            (0, 3, 600),
            (1, 1, 256),
            (2, 5, 1),
            (2, 2, 1024),
            (4, 6, 700),
            (4, 4, 2048),
        ];
        let found = ranges(&lives, 2048);
        assert_eq!(
            found,
            [Some(0), Some(768), Some(1024), None, Some(1280), None]
        );
        let ends = |i: usize| found[i].map(|at| (at, at + lives[i].2));
        for i in 0..lives.len() {
            for j in 0..i {
                let together = lives[i].0 <= lives[j].1 && lives[j].0 <= lives[i].1;
                if let (true, Some(a), Some(b)) = (together, ends(i), ends(j)) {
                    assert!(a.1 <= b.0 || b.1 <= a.0, "{i} and {j}");
                }
            }
        }
    }
}
