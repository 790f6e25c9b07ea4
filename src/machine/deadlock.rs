//! The report of a program that stopped making progress.
//!
//! Models: who is blocked on what, and who could have unblocked it: operations still in queues, and lines of the program.
//! Leaves out: finding out that nothing moves, which is the runner's. Invariant: the same blocked state gives the same
//! report in both runners; units that are blocked alike are one entry.

use super::op::{MacroOp, OpKind, Post, Queue, UnitId, Wait};
use super::trap::{instruction_text, processor};
use crate::isa::Inst;
use crate::isa::image::{Image, Processor};
use serde::Serialize;

/// Most entries of each list that the text names.
const SHOWN: usize = 8;

/// A semaphore that does not hold enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Need {
    /// Semaphore of the blocked unit.
    pub sem: u16,
    /// Its value.
    pub has: u32,
    /// What the instruction takes of it in all.
    pub needs: u32,
}

impl Need {
    /// What waits take together of semaphores with these values, by semaphore.
    pub fn of(waits: &[Wait], values: &[u32]) -> Vec<Need> {
        let mut needs: Vec<Need> = Vec::new();
        for wait in waits {
            match needs.iter_mut().find(|n| n.sem == wait.sem) {
                Some(need) => need.needs += u32::from(wait.n),
                None => needs.push(Need {
                    sem: wait.sem,
                    has: values[usize::from(wait.sem)],
                    needs: u32::from(wait.n),
                }),
            }
        }
        needs
    }
}

/// What something is blocked on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockedOn {
    /// Semaphores of the own unit; at least one holds too little.
    Semaphores(Vec<Need>),
    /// A processor that wants to push into a full queue.
    QueueFull(#[serde(serialize_with = "as_text")] Queue),
}

/// A processor, or the head of a queue, that cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blocked {
    /// The unit.
    pub unit: UnitId,
    /// The queue whose head it is; `None` for the processor itself.
    pub queue: Option<Queue>,
    /// Word of the instruction.
    pub pc: u32,
    /// What it is blocked on.
    pub on: BlockedOn,
}

/// An operation or a program line that signals a semaphore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Signaller {
    /// Where it is: a queue of a unit, or a program.
    pub holder: String,
    /// `file:line`, if known.
    pub place: Option<String>,
    /// Text of the instruction.
    pub instruction: String,
}

/// Units that are blocked in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The units.
    pub units: Vec<UnitId>,
    /// The queue whose head is blocked; `None` for the processor.
    #[serde(serialize_with = "as_optional_text")]
    pub queue: Option<Queue>,
    /// `file:line`, if known.
    pub place: Option<String>,
    /// Text of the instruction.
    pub instruction: String,
    /// What it waits for.
    pub on: BlockedOn,
    /// Operations in queues that would signal what is missing, of any of the units.
    pub pending: Vec<Signaller>,
    /// Program lines that signal a semaphore of that index, or of an index in a register.
    pub lines: Vec<Signaller>,
}

/// Why nothing can go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeadlockReport {
    /// What is blocked, in the order given.
    pub blocked: Vec<Entry>,
}

fn as_text<S: serde::Serializer>(queue: &Queue, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(queue)
}

fn as_optional_text<S: serde::Serializer>(
    queue: &Option<Queue>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match queue {
        Some(queue) => serializer.collect_str(queue),
        None => serializer.serialize_none(),
    }
}

impl DeadlockReport {
    /// The report of everything that is blocked; `pending` are the operations in queues that have not finished.
    pub fn build<'a>(
        image: &Image,
        blocked: &[Blocked],
        pending: impl IntoIterator<Item = &'a MacroOp>,
    ) -> DeadlockReport {
        let pending: Vec<&MacroOp> = pending.into_iter().collect();
        let mut entries: Vec<(Entry, Processor, u32)> = Vec::new();
        for b in blocked {
            let kind = processor(b.unit);
            let same = entries
                .iter_mut()
                .find(|(e, k, pc)| (*k, *pc, &e.queue, &e.on) == (kind, b.pc, &b.queue, &b.on));
            match same {
                Some((entry, ..)) => entry.units.push(b.unit),
                None => {
                    let section = image.program(kind);
                    let entry = Entry {
                        units: vec![b.unit],
                        queue: b.queue,
                        place: image.place(section, b.pc as usize),
                        instruction: instruction_text(image, section, b.pc),
                        on: b.on.clone(),
                        pending: Vec::new(),
                        lines: Vec::new(),
                    };
                    entries.push((entry, kind, b.pc));
                }
            }
        }
        let mut blocked: Vec<Entry> = entries.into_iter().map(|(e, ..)| e).collect();
        for entry in &mut blocked {
            let BlockedOn::Semaphores(needs) = &entry.on else {
                continue;
            };
            let missing: Vec<u16> = needs
                .iter()
                .filter(|n| n.has < n.needs)
                .map(|n| n.sem)
                .collect();
            entry.pending = pending
                .iter()
                .filter(|op| signals(op, &entry.units, &missing))
                .map(|op| Signaller {
                    holder: format!("{} {}", op.unit, op.queue),
                    place: image.place(image.program(processor(op.unit)), op.pc as usize),
                    instruction: instruction_text(image, image.program(processor(op.unit)), op.pc),
                })
                .collect();
            entry.lines = program_lines(image, processor(entry.units[0]), &missing);
        }
        DeadlockReport { blocked }
    }
}

/// Whether an operation will signal one of the semaphores of one of the units.
fn signals(op: &MacroOp, units: &[UnitId], sems: &[u16]) -> bool {
    let hits = |post: &Post| sems.contains(&post.sem) && units.contains(&post.unit);
    let own = matches!(&op.kind, OpKind::NetSignal(post) if hits(post));
    own || op.posts().iter().any(hits)
}

/// Lines that may signal such a semaphore of a unit of kind `to`.
fn program_lines(image: &Image, to: Processor, sems: &[u16]) -> Vec<Signaller> {
    let programs = [
        (Processor::Tile, "tile program"),
        (Processor::Cluster, "cluster program"),
        (Processor::Chip, "chip program"),
    ];
    let mut lines = Vec::new();
    for (from, holder) in programs {
        let section = image.program(from);
        for (word, inst) in section.insts.iter().enumerate() {
            let (sem, base, reaches) = match *inst {
                Inst::Signal { sem, rs1, .. } => (sem, rs1.0, from == to),
                Inst::SignalUnit { sem, rs1, .. } | Inst::SemPost { sem, rs1, .. } => {
                    (sem, rs1.0, true)
                }
                Inst::SignalTiles { sem, rs1, .. } => (sem, rs1.0, to == Processor::Tile),
                Inst::SignalDest { sem, rs1, .. } => (sem, rs1.0, to != Processor::Chip),
                Inst::NetSignal { sem, .. } => (sem, 0, true),
                _ => continue,
            };
            if reaches && (base != 0 || sems.contains(&u16::from(sem))) {
                lines.push(Signaller {
                    holder: holder.to_owned(),
                    place: image.place(section, word),
                    instruction: instruction_text(image, section, word as u32),
                });
            }
        }
    }
    lines
}

impl std::fmt::Display for Signaller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.holder)?;
        if let Some(place) = &self.place {
            write!(f, ", {place}")?;
        }
        write!(f, " `{}`", self.instruction)
    }
}

impl std::fmt::Display for DeadlockReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("deadlock: nothing can go on")?;
        for entry in &self.blocked {
            f.write_str("\n  ")?;
            names(f, &entry.units)?;
            match &entry.queue {
                Some(queue) => write!(f, ", head of queue {queue}")?,
                None => f.write_str(", processor")?,
            }
            if let Some(place) = &entry.place {
                write!(f, ", {place}")?;
            }
            write!(f, " `{}`:", entry.instruction)?;
            match &entry.on {
                BlockedOn::QueueFull(queue) => write!(f, " queue {queue} is full")?,
                BlockedOn::Semaphores(needs) => {
                    for need in needs {
                        let Need { sem, has, needs } = need;
                        write!(f, " semaphore {sem} has {has}, needs {needs};")?;
                    }
                    list(f, "pending operations that would signal it", &entry.pending)?;
                    list(f, "lines that signal it", &entry.lines)?;
                }
            }
        }
        Ok(())
    }
}

fn names(f: &mut std::fmt::Formatter<'_>, units: &[UnitId]) -> std::fmt::Result {
    for (i, unit) in units.iter().take(SHOWN).enumerate() {
        write!(f, "{}{unit}", if i == 0 { "" } else { ", " })?;
    }
    more(f, units.len())
}

fn list(f: &mut std::fmt::Formatter<'_>, what: &str, all: &[Signaller]) -> std::fmt::Result {
    write!(f, "\n    {what}:")?;
    if all.is_empty() {
        return f.write_str(" none");
    }
    for signaller in all.iter().take(SHOWN) {
        write!(f, "\n      {signaller}")?;
    }
    more(f, all.len())
}

fn more(f: &mut std::fmt::Formatter<'_>, len: usize) -> std::fmt::Result {
    match len.saturating_sub(SHOWN) {
        0 => Ok(()),
        rest => write!(f, " and {rest} more"),
    }
}
