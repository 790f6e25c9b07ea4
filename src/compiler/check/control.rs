//! Control processors: one instruction at a time, and what they push.
//!
//! Models: `isa/control.toml`, `isa/semaphore.toml` and the clauses of `isa/dma.toml` and `isa/ttu.toml`, on integers. Leaves out: what
//! macro-instructions do, and the cycle counter, which reads 0. Invariant: an instruction that traps or blocks changed nothing.

use super::state::{Machine, Operation, Place, Post, Queue, Signal, Trap, Unit, touch, want};
use super::state::{Staged, Touched};
use crate::isa::image::Processor;
use crate::isa::{Inst, Reg, Sysreg};

/// What became of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing that anybody else sees.
    Ran,
    /// It read or wrote its own SRAM.
    Touched(Touched),
    /// It put an operation into a queue.
    Pushed(Queue),
    /// It took tokens.
    Waited(u16, u16),
    Posted(Post),
    Blocked,
    Halted,
}

impl PartialEq for Touched {
    fn eq(&self, other: &Touched) -> bool {
        self.reads == other.reads && self.writes == other.writes
    }
}

/// Runs the next instruction of a unit's processor.
pub fn step(machine: &mut Machine, unit: Unit) -> Result<Step, Trap> {
    let core = &machine.cores[&unit];
    if core.halted {
        return Ok(Step::Halted);
    }
    let (pc, registers) = (core.pc, core.registers);
    let section = machine.section(unit);
    let inst = section.insts.get(pc as usize);
    let inst = *inst.ok_or_else(|| Trap("the program goes on past its last word".into()))?;
    let r = |x: Reg| registers[x.index()];
    let s = |x: Reg| registers[x.index()] as i64;
    let i = |imm: i32| i64::from(imm) as u64;
    let mut to = i64::from(pc) + 1;
    let mut set: Option<(Reg, u64)> = None;
    let mut done = Step::Ran;
    let jump = |target: i32| i64::from(pc) + i64::from(target);
    match inst {
        Inst::Add { rd, rs1, rs2 } => set = Some((rd, r(rs1).wrapping_add(r(rs2)))),
        Inst::Sub { rd, rs1, rs2 } => set = Some((rd, r(rs1).wrapping_sub(r(rs2)))),
        Inst::Mul { rd, rs1, rs2 } => set = Some((rd, r(rs1).wrapping_mul(r(rs2)))),
        Inst::Divu { rd, rs1, rs2 } => {
            let by = r(rs1).checked_div(r(rs2));
            set = Some((rd, by.ok_or_else(|| Trap("division by zero".into()))?));
        }
        Inst::Remu { rd, rs1, rs2 } => {
            let rest = r(rs1).checked_rem(r(rs2));
            set = Some((rd, rest.ok_or_else(|| Trap("division by zero".into()))?));
        }
        Inst::And { rd, rs1, rs2 } => set = Some((rd, r(rs1) & r(rs2))),
        Inst::Or { rd, rs1, rs2 } => set = Some((rd, r(rs1) | r(rs2))),
        Inst::Xor { rd, rs1, rs2 } => set = Some((rd, r(rs1) ^ r(rs2))),
        Inst::Shl { rd, rs1, rs2 } => set = Some((rd, r(rs1) << (r(rs2) & 63))),
        Inst::Shr { rd, rs1, rs2 } => set = Some((rd, r(rs1) >> (r(rs2) & 63))),
        Inst::Sra { rd, rs1, rs2 } => set = Some((rd, (s(rs1) >> (r(rs2) & 63)) as u64)),
        Inst::Slt { rd, rs1, rs2 } => set = Some((rd, u64::from(s(rs1) < s(rs2)))),
        Inst::Sltu { rd, rs1, rs2 } => set = Some((rd, u64::from(r(rs1) < r(rs2)))),
        Inst::Min { rd, rs1, rs2 } => set = Some((rd, s(rs1).min(s(rs2)) as u64)),
        Inst::Max { rd, rs1, rs2 } => set = Some((rd, s(rs1).max(s(rs2)) as u64)),
        Inst::Addi { rd, rs1, imm } => set = Some((rd, r(rs1).wrapping_add(i(imm)))),
        Inst::Muli { rd, rs1, imm } => set = Some((rd, r(rs1).wrapping_mul(i(imm)))),
        Inst::Andi { rd, rs1, imm } => set = Some((rd, r(rs1) & i(imm))),
        Inst::Ori { rd, rs1, imm } => set = Some((rd, r(rs1) | i(imm))),
        Inst::Xori { rd, rs1, imm } => set = Some((rd, r(rs1) ^ i(imm))),
        Inst::Shli { rd, rs1, imm } => set = Some((rd, r(rs1) << (imm & 63))),
        Inst::Shri { rd, rs1, imm } => set = Some((rd, r(rs1) >> (imm & 63))),
        Inst::Srai { rd, rs1, imm } => set = Some((rd, (s(rs1) >> (imm & 63)) as u64)),
        Inst::Slti { rd, rs1, imm } => set = Some((rd, u64::from(s(rs1) < i64::from(imm)))),
        Inst::Li { rd, imm } => set = Some((rd, imm as u64)),
        Inst::Beq { rs1, rs2, target } if r(rs1) == r(rs2) => to = jump(target),
        Inst::Bne { rs1, rs2, target } if r(rs1) != r(rs2) => to = jump(target),
        Inst::Blt { rs1, rs2, target } if s(rs1) < s(rs2) => to = jump(target),
        Inst::Bge { rs1, rs2, target } if s(rs1) >= s(rs2) => to = jump(target),
        Inst::Bltu { rs1, rs2, target } if r(rs1) < r(rs2) => to = jump(target),
        Inst::Bgeu { rs1, rs2, target } if r(rs1) >= r(rs2) => to = jump(target),
        Inst::Beq { .. }
        | Inst::Bne { .. }
        | Inst::Blt { .. }
        | Inst::Bge { .. }
        | Inst::Bltu { .. }
        | Inst::Bgeu { .. } => {}
        Inst::Jal { rd, target } => {
            set = Some((rd, to as u64));
            to = jump(target);
        }
        Inst::Jalr { rd, rs1, imm } => {
            set = Some((rd, to as u64));
            to = r(rs1).wrapping_add(i(imm)) as i64;
        }
        Inst::Lbu { rd, rs1, imm } => {
            let (word, touched) = load(machine, unit, r(rs1).wrapping_add(i(imm)), 1)?;
            (set, done) = (Some((rd, word)), touched);
        }
        Inst::Lw { rd, rs1, imm } => {
            let (word, touched) = load(machine, unit, r(rs1).wrapping_add(i(imm)), 4)?;
            (set, done) = (Some((rd, i(word as i32))), touched);
        }
        Inst::Ld { rd, rs1, imm } => {
            let (word, touched) = load(machine, unit, r(rs1).wrapping_add(i(imm)), 8)?;
            (set, done) = (Some((rd, word)), touched);
        }
        Inst::Sb { rs2, rs1, imm } => {
            done = store(machine, unit, r(rs1).wrapping_add(i(imm)), 1, r(rs2))?;
        }
        Inst::Sw { rs2, rs1, imm } => {
            done = store(machine, unit, r(rs1).wrapping_add(i(imm)), 4, r(rs2))?;
        }
        Inst::Sd { rs2, rs1, imm } => {
            done = store(machine, unit, r(rs1).wrapping_add(i(imm)), 8, r(rs2))?;
        }
        Inst::Ldc { rd, rs1, imm } => {
            let index = r(rs1).wrapping_add(i(imm));
            let word = usize::try_from(index).ok();
            let word = word.and_then(|at| machine.image.constants.get(at));
            let word = word.ok_or_else(|| Trap(format!("there is no constant {index}")))?;
            set = Some((rd, *word));
        }
        Inst::Rdsr { rd, sr } => set = Some((rd, system(machine, unit, sr))),
        Inst::Rdflags { rd } => set = Some((rd, 0)),
        Inst::Halt {} => {
            let core = machine.core(unit);
            want(core.staged == Staged::default(), || {
                "a staged clause was never used".into()
            })?;
            core.halted = true;
            return Ok(Step::Halted);
        }
        Inst::Trap { code } => return Err(Trap(format!("trap {code}"))),
        Inst::Wait { sem, rs1, n } => {
            let sem = semaphore(machine, r(rs1), sem)?;
            let limit = machine.chip.semaphores.per_op as usize;
            let waits = &mut machine.core(unit).staged.waits;
            want(waits.len() < limit, || "too many waits".into())?;
            waits.push((sem, n.into()));
        }
        Inst::Signal { sem, rs1, n } => {
            let sem = semaphore(machine, r(rs1), sem)?;
            let n = n.into();
            signal(machine, unit, Signal::Posts(vec![Post { unit, sem, n }]))?;
        }
        Inst::SignalUnit {
            unit: other,
            sem,
            rs1,
            n,
        } => {
            let sem = semaphore(machine, r(rs1), sem)?;
            let (other, n) = (machine.unit(r(other))?, n.into());
            let post = Post {
                unit: other,
                sem,
                n,
            };
            signal(machine, unit, Signal::Posts(vec![post]))?;
        }
        Inst::SignalTiles { mask, sem, rs1, n } => {
            let sem = semaphore(machine, r(rs1), sem)?;
            let tiles = members(r(mask), machine.tiles())?;
            let post = |t: u16| Post {
                unit: Unit(t),
                sem,
                n: n.into(),
            };
            let posts = tiles.into_iter().map(post).collect();
            signal(machine, unit, Signal::Posts(posts))?;
        }
        Inst::SignalDest { sem, rs1, n } => {
            let sem = semaphore(machine, r(rs1), sem)?;
            signal(machine, unit, Signal::Destinations(sem, n.into()))?;
        }
        Inst::SemWait { sem, rs1, n } => {
            let sem = semaphore(machine, r(rs1), sem)?;
            if !take(machine, unit, &[(sem, n.into())]) {
                return Ok(Step::Blocked);
            }
            done = Step::Waited(sem, n.into());
        }
        Inst::SemPost {
            unit: other,
            sem,
            rs1,
            n,
        } => {
            let sem = semaphore(machine, r(rs1), sem)?;
            let (unit, n) = (machine.unit(r(other))?, n.into());
            let posted = Post { unit, sem, n };
            post(machine, posted)?;
            done = Step::Posted(posted);
        }
        Inst::SemRead { rd, sem, rs1 } => {
            let sem = semaphore(machine, r(rs1), sem)?;
            set = Some((rd, machine.cores[&unit].semaphores[usize::from(sem)]));
        }
        Inst::Dim { count, ds, ss } => {
            let count = r(count);
            want((1..=1 << 32).contains(&count), || format!("count {count}"))?;
            let dims = &mut machine.core(unit).staged.dims;
            want(dims.len() < 2, || "more than two dimensions".into())?;
            dims.push((count, s(ds), s(ss)));
        }
        Inst::Mcast { mask } => machine.core(unit).staged.mcast = Some(r(mask)),
        Inst::Gather { index, stride } => {
            machine.core(unit).staged.gather = Some((r(index), s(stride)));
        }
        Inst::MmScale {
            ta,
            tb,
            a,
            lda,
            b,
            ldb,
        } => {
            let scales = [(ta, r(a), r(lda)), (tb, r(b), r(ldb))];
            machine.core(unit).staged.scales = Some(scales);
        }
        _ => match push(machine, unit, inst)? {
            Some(queue) => done = Step::Pushed(queue),
            None => return Ok(Step::Blocked),
        },
    }
    let words = section.insts.len() as i64;
    want((0..words).contains(&to), || {
        format!("a jump to word {to} of {words}")
    })?;
    let core = machine.core(unit);
    if let Some((rd, value)) = set.filter(|(rd, _)| rd.0 != 0) {
        core.registers[rd.index()] = value;
    }
    core.pc = to as u32;
    Ok(done)
}

fn load(machine: &Machine, unit: Unit, address: u64, n: usize) -> Result<(u64, Step), Trap> {
    let at = machine.own(unit, address, n as u64)?;
    let place = unit.place().unwrap_or(Place::Hbm);
    let mut touched = Touched::default();
    touch(&mut touched.reads, place, at..at + n as u64);
    let word = machine.memory(place).row(at, n).word(0, n);
    Ok((word, Step::Touched(touched)))
}

fn store(
    machine: &mut Machine,
    unit: Unit,
    address: u64,
    n: usize,
    word: u64,
) -> Result<Step, Trap> {
    let at = machine.own(unit, address, n as u64)?;
    let place = unit.place().unwrap_or(Place::Hbm);
    let mut touched = Touched::default();
    touch(&mut touched.writes, place, at..at + n as u64);
    let mut row = super::cells::Cells::new(n);
    row.set_word(0, n, word);
    machine.memory_mut(place).write(at, n, &row, 0);
    Ok(Step::Touched(touched))
}

fn semaphore(machine: &Machine, base: u64, imm: u8) -> Result<u16, Trap> {
    let (index, count) = (base.wrapping_add(imm.into()), machine.chip.semaphores.count);
    want(index < count.into(), || {
        format!("semaphore {index} of {count}")
    })?;
    Ok(index as u16)
}

fn signal(machine: &mut Machine, unit: Unit, signal: Signal) -> Result<(), Trap> {
    let limit = machine.chip.semaphores.per_op as usize;
    let signals = &mut machine.core(unit).staged.signals;
    want(signals.len() < limit, || "too many signals".into())?;
    signals.push(signal);
    Ok(())
}

/// The numbers of the bits that are set in a mask of `count` units.
pub fn members(mask: u64, count: u64) -> Result<Vec<u16>, Trap> {
    let outside = count < 64 && mask >> count != 0;
    want(!outside, || {
        format!("mask {mask:#x} names more than {count} units")
    })?;
    Ok((0..64).filter(|bit| mask >> bit & 1 == 1).collect())
}

/// Takes all the waits together if the semaphores hold their sum, else nothing.
pub fn take(machine: &mut Machine, unit: Unit, waits: &[(u16, u16)]) -> bool {
    let semaphores = &mut machine.core(unit).semaphores;
    let mut left = Vec::with_capacity(waits.len());
    for (i, (sem, n)) in waits.iter().enumerate() {
        let before = waits[..i].iter().filter(|w| w.0 == *sem);
        let taken: u64 = before.map(|w| u64::from(w.1)).sum();
        match semaphores[usize::from(*sem)].checked_sub(taken + u64::from(*n)) {
            Some(value) => left.push((*sem, value)),
            None => return false,
        }
    }
    for (sem, value) in left {
        semaphores[usize::from(sem)] = value;
    }
    true
}

/// Adds to a semaphore.
pub fn post(machine: &mut Machine, post: Post) -> Result<(), Trap> {
    let max = (1u64 << machine.chip.semaphores.bits) - 1;
    let value = &mut machine.core(post.unit).semaphores[usize::from(post.sem)];
    let sum = *value + u64::from(post.n);
    want(sum <= max, || {
        format!("semaphore {} of {} overflows", post.sem, post.unit)
    })?;
    *value = sum;
    Ok(())
}

/// Puts a macro-instruction into its queue with its clauses; none if there is no room.
fn push(machine: &mut Machine, unit: Unit, inst: Inst) -> Result<Option<Queue>, Trap> {
    let tile = unit.processor() == Processor::Tile;
    let queue = match inst {
        Inst::Dma { ch, .. } | Inst::DmaT { ch, .. } | Inst::DmaQ { ch, .. } => {
            let channels = match unit.processor() {
                Processor::Tile => machine.chip.dma.channels,
                Processor::Cluster => machine.chip.cdma.channels,
                Processor::Chip => 0,
            };
            want(u32::from(ch) < channels, || {
                format!("channel {ch} of {channels}")
            })?;
            Queue::Dma(ch)
        }
        Inst::Mm { .. } | Inst::MmLoad { .. } | Inst::MmStore { .. } if tile => Queue::Ttu,
        Inst::Vrun { kernel, args, n } if tile => {
            want(usize::from(kernel) < machine.image.kernels.len(), || {
                format!("there is no kernel {kernel}")
            })?;
            want(n <= 12 && args.0 + n <= 32, || {
                format!("{n} arguments from {args}")
            })?;
            Queue::Tvp
        }
        Inst::NetPut { .. }
        | Inst::NetGet { .. }
        | Inst::NetSignal { .. }
        | Inst::NetBcast { .. } => Queue::Net,
        _ => {
            return Err(Trap(format!("`{inst}` does not run on this processor")));
        }
    };
    let depth = machine.chip.queue.depth as usize;
    let core = machine.core(unit);
    let entries = core.queues.entry(queue).or_default();
    if entries.len() >= depth {
        return Ok(None);
    }
    let mut taken = std::mem::take(&mut core.staged);
    // What is no clause of this instruction stays for the one it is of.
    if !matches!(queue, Queue::Dma(_)) {
        core.staged.dims = std::mem::take(&mut taken.dims);
        core.staged.mcast = taken.mcast.take();
        core.staged.gather = taken.gather.take();
    }
    if !matches!(inst, Inst::Mm { .. }) {
        core.staged.scales = taken.scales.take();
    }
    entries.push_back(Operation {
        inst,
        pc: core.pc,
        registers: core.registers,
        staged: taken,
    });
    Ok(Some(queue))
}

fn system(machine: &Machine, unit: Unit, sr: Sysreg) -> u64 {
    let per_cluster = u64::from(machine.chip.tiles_per_cluster);
    let tile = match unit.processor() {
        Processor::Tile => u64::from(unit.0),
        Processor::Cluster => u64::from(unit.0 - 0x100) * per_cluster,
        Processor::Chip => 0,
    };
    match sr {
        Sysreg::Tile => tile,
        Sysreg::Cluster => tile / per_cluster,
        Sysreg::Lane => tile % per_cluster,
        Sysreg::Unit => unit.0.into(),
        Sysreg::Tiles => machine.tiles(),
        Sysreg::Clusters => machine.chip.clusters.into(),
        Sysreg::TilesPerCluster => per_cluster,
        Sysreg::Chips => 1,
        Sysreg::Chip | Sysreg::Cycle => 0,
    }
}
