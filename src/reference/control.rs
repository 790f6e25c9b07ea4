//! One instruction of a control processor (`isa/control.toml`, `isa/semaphore.toml`, and the clauses of `isa/dma.toml`).
//!
//! Models: registers, branches, loads and stores, semaphores, staging. A macro-instruction is checked here and put into its
//! queue; what it does is in [`super::operation`]. Leaves out: time, so that the cycle register is 0. Invariant: every
//! instruction of the set has its own arm in [`step`], or is a vector instruction, which no control program may contain.

use super::address::{self, own_sram};
use super::operation;
use super::state::{Machine, Operation, Signal, own_place, program};
use super::{Numbers, Trap, Unit};
use crate::isa::{Inst, Reg, Sysreg};

/// What became of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is done.
    Done,
    /// It cannot go on yet, and has changed nothing.
    Blocked,
    /// The processor has halted, now or before.
    Halted,
}

/// 2^64: registers hold residues of it.
const WRAP: i128 = 1 << 64;

/// The residue of a number that is a register's content.
fn wrap(number: i128) -> u64 {
    number.rem_euclid(WRAP) as u64
}

/// A register's content as a signed number.
fn signed(word: u64) -> i128 {
    let number = i128::from(word);
    if number < WRAP / 2 {
        number
    } else {
        number - WRAP
    }
}

/// Rounds `number / 2^by` down.
fn shifted_right(number: i128, by: u64) -> i128 {
    number.div_euclid(1 << by)
}

/// `number * 2^by`, wrapped.
fn shifted_left(word: u64, by: u64) -> u64 {
    (0..by).fold(word, |word, _| wrap(2 * i128::from(word)))
}

/// Quotient and remainder.
fn divided(a: u64, b: u64) -> Result<(u64, u64), Trap> {
    match b {
        0 => Err(Trap("division by zero".into())),
        b => Ok((a / b, a % b)),
    }
}

/// Runs the next instruction of a unit's processor.
pub fn step(machine: &mut Machine, unit: Unit) -> Result<Step, Trap> {
    let state = machine.unit(unit);
    if state.halted {
        return Ok(Step::Halted);
    }
    let (pc, registers) = (state.pc, state.registers);
    let Some(inst) = program(&machine.image, unit).get(pc as usize).cloned() else {
        return Err(Trap("the program ends without halt".into()));
    };
    let r = |x: Reg| registers[usize::from(x.0)];
    let s = |x: Reg| signed(r(x));
    // What most instructions do: set one register and go on to the next word.
    let mut set = |rd: Reg, value: u64| {
        let state = machine.unit(unit);
        if rd.0 != 0 {
            state.registers[usize::from(rd.0)] = value;
        }
        state.pc = pc + 1;
        Ok(Step::Done)
    };
    match inst {
        Inst::Add { rd, rs1, rs2 } => set(rd, wrap(s(rs1) + s(rs2))),
        Inst::Sub { rd, rs1, rs2 } => set(rd, wrap(s(rs1) - s(rs2))),
        Inst::Mul { rd, rs1, rs2 } => set(rd, wrap(s(rs1) * s(rs2))),
        Inst::Divu { rd, rs1, rs2 } => set(rd, divided(r(rs1), r(rs2))?.0),
        Inst::Remu { rd, rs1, rs2 } => set(rd, divided(r(rs1), r(rs2))?.1),
        Inst::And { rd, rs1, rs2 } => set(rd, r(rs1) & r(rs2)),
        Inst::Or { rd, rs1, rs2 } => set(rd, r(rs1) | r(rs2)),
        Inst::Xor { rd, rs1, rs2 } => set(rd, r(rs1) ^ r(rs2)),
        Inst::Shl { rd, rs1, rs2 } => set(rd, shifted_left(r(rs1), r(rs2) % 64)),
        Inst::Shr { rd, rs1, rs2 } => set(rd, wrap(shifted_right(i128::from(r(rs1)), r(rs2) % 64))),
        Inst::Sra { rd, rs1, rs2 } => set(rd, wrap(shifted_right(s(rs1), r(rs2) % 64))),
        Inst::Slt { rd, rs1, rs2 } => set(rd, if s(rs1) < s(rs2) { 1 } else { 0 }),
        Inst::Sltu { rd, rs1, rs2 } => set(rd, if r(rs1) < r(rs2) { 1 } else { 0 }),
        Inst::Min { rd, rs1, rs2 } => set(rd, if s(rs1) < s(rs2) { r(rs1) } else { r(rs2) }),
        Inst::Max { rd, rs1, rs2 } => set(rd, if s(rs1) < s(rs2) { r(rs2) } else { r(rs1) }),
        Inst::Addi { rd, rs1, imm } => set(rd, wrap(s(rs1) + i128::from(imm))),
        Inst::Muli { rd, rs1, imm } => set(rd, wrap(s(rs1) * i128::from(imm))),
        Inst::Andi { rd, rs1, imm } => set(rd, r(rs1) & wrap(i128::from(imm))),
        Inst::Ori { rd, rs1, imm } => set(rd, r(rs1) | wrap(i128::from(imm))),
        Inst::Xori { rd, rs1, imm } => set(rd, r(rs1) ^ wrap(i128::from(imm))),
        Inst::Shli { rd, rs1, imm } => set(rd, shifted_left(r(rs1), u64::from(imm))),
        Inst::Shri { rd, rs1, imm } => {
            set(rd, wrap(shifted_right(i128::from(r(rs1)), u64::from(imm))))
        }
        Inst::Srai { rd, rs1, imm } => set(rd, wrap(shifted_right(s(rs1), u64::from(imm)))),
        Inst::Slti { rd, rs1, imm } => set(rd, if s(rs1) < i128::from(imm) { 1 } else { 0 }),
        Inst::Li { rd, imm } => set(rd, wrap(i128::from(imm))),

        Inst::Beq { rs1, rs2, target } => branch(machine, unit, r(rs1) == r(rs2), target),
        Inst::Bne { rs1, rs2, target } => branch(machine, unit, r(rs1) != r(rs2), target),
        Inst::Blt { rs1, rs2, target } => branch(machine, unit, s(rs1) < s(rs2), target),
        Inst::Bge { rs1, rs2, target } => branch(machine, unit, s(rs1) >= s(rs2), target),
        Inst::Bltu { rs1, rs2, target } => branch(machine, unit, r(rs1) < r(rs2), target),
        Inst::Bgeu { rs1, rs2, target } => branch(machine, unit, r(rs1) >= r(rs2), target),
        Inst::Jal { rd, target } => {
            let to = i128::from(pc) + i128::from(target);
            jump(machine, unit, to, rd)
        }
        Inst::Jalr { rd, rs1, imm } => {
            let to = signed(wrap(s(rs1) + i128::from(imm)));
            jump(machine, unit, to, rd)
        }

        Inst::Lbu { rd, rs1, imm } => {
            let byte = load(machine, unit, r(rs1), imm, 1)?;
            done(machine, unit, rd, byte)
        }
        Inst::Lw { rd, rs1, imm } => {
            let word = i128::from(load(machine, unit, r(rs1), imm, 4)?);
            let extended = if word < 1 << 31 {
                word
            } else {
                word - (1 << 32)
            };
            done(machine, unit, rd, wrap(extended))
        }
        Inst::Ld { rd, rs1, imm } => {
            let word = load(machine, unit, r(rs1), imm, 8)?;
            done(machine, unit, rd, word)
        }
        Inst::Sb { rs2, rs1, imm } => store(machine, unit, r(rs1), imm, 1, r(rs2)),
        Inst::Sw { rs2, rs1, imm } => store(machine, unit, r(rs1), imm, 4, r(rs2)),
        Inst::Sd { rs2, rs1, imm } => store(machine, unit, r(rs1), imm, 8, r(rs2)),
        Inst::Ldc { rd, rs1, imm } => {
            let index = wrap(s(rs1) + i128::from(imm));
            let table = &machine.image.constants;
            if index >= table.len() as u64 {
                return Err(Trap(format!("index {index} outside the constant table")));
            }
            let word = table[index as usize];
            done(machine, unit, rd, word)
        }
        Inst::Rdsr { rd, sr } => {
            let value = system_register(&machine.numbers, unit, sr);
            done(machine, unit, rd, value)
        }
        Inst::Rdflags { rd } => {
            let flags = std::mem::take(&mut machine.unit(unit).flags);
            done(machine, unit, rd, flags)
        }
        Inst::Halt {} => {
            let state = machine.unit(unit);
            if state.staged != Default::default() {
                return Err(Trap("a staged clause was never used".into()));
            }
            state.halted = true;
            state.pc += 1;
            Ok(Step::Halted)
        }
        Inst::Trap { code } => Err(Trap(format!("trap {code}"))),

        Inst::Wait { sem, rs1, n } => {
            let sem = semaphore(&machine.numbers, r(rs1), sem)?;
            let limit = machine.numbers.clauses_per_op;
            let waits = &mut machine.unit(unit).staged.waits;
            room(waits.len(), limit)?;
            waits.push((sem, u64::from(n)));
            next(machine, unit)
        }
        Inst::Signal { sem, rs1, n } => {
            let sem = semaphore(&machine.numbers, r(rs1), sem)?;
            let posts = vec![(unit, sem, u64::from(n))];
            stage_signal(machine, unit, Signal::Posts(posts))
        }
        Inst::SignalUnit {
            unit: other,
            sem,
            rs1,
            n,
        } => {
            let other = address::unit(&machine.numbers, r(other))?;
            let sem = semaphore(&machine.numbers, r(rs1), sem)?;
            let posts = vec![(other, sem, u64::from(n))];
            stage_signal(machine, unit, Signal::Posts(posts))
        }
        Inst::SignalTiles { mask, sem, rs1, n } => {
            let sem = semaphore(&machine.numbers, r(rs1), sem)?;
            let tiles = members(r(mask), machine.numbers.tiles())?;
            let posts = tiles.iter().map(|t| (Unit::Tile(*t), sem, u64::from(n)));
            stage_signal(machine, unit, Signal::Posts(posts.collect()))
        }
        Inst::SignalDest { sem, rs1, n } => {
            let sem = semaphore(&machine.numbers, r(rs1), sem)?;
            stage_signal(machine, unit, Signal::Destinations(sem, u64::from(n)))
        }
        Inst::SemWait { sem, rs1, n } => {
            let sem = semaphore(&machine.numbers, r(rs1), sem)?;
            if !take(machine, unit, &[(sem, u64::from(n))]) {
                return Ok(Step::Blocked);
            }
            next(machine, unit)
        }
        Inst::SemPost {
            unit: other,
            sem,
            rs1,
            n,
        } => {
            let other = address::unit(&machine.numbers, r(other))?;
            let sem = semaphore(&machine.numbers, r(rs1), sem)?;
            post(machine, (other, sem, u64::from(n)))?;
            next(machine, unit)
        }
        Inst::SemRead { rd, sem, rs1 } => {
            let sem = semaphore(&machine.numbers, r(rs1), sem)?;
            let value = machine.unit(unit).semaphores[sem as usize];
            done(machine, unit, rd, value)
        }

        Inst::Dim { count, ds, ss } => {
            if r(count) == 0 || r(count) > 1 << 32 {
                return Err(Trap(format!("count {} is 0 or over 2^32", r(count))));
            }
            let dims = &mut machine.unit(unit).staged.dims;
            room(dims.len(), 2)?;
            dims.push((r(count), r(ds) as i64, r(ss) as i64));
            next(machine, unit)
        }
        Inst::Mcast { mask } => {
            machine.unit(unit).staged.mcast = Some(r(mask));
            next(machine, unit)
        }
        Inst::Gather { index, stride } => {
            machine.unit(unit).staged.gather = Some((r(index), r(stride) as i64));
            next(machine, unit)
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
            machine.unit(unit).staged.scales = Some(scales);
            next(machine, unit)
        }

        Inst::Dma { .. }
        | Inst::DmaT { .. }
        | Inst::DmaQ { .. }
        | Inst::Mm { .. }
        | Inst::MmLoad { .. }
        | Inst::MmStore { .. }
        | Inst::Vrun { .. }
        | Inst::NetPut { .. }
        | Inst::NetGet { .. }
        | Inst::NetSignal { .. }
        | Inst::NetBcast { .. } => push(machine, unit, inst),

        Inst::Vld { .. }
        | Inst::Vlds { .. }
        | Inst::Vldb { .. }
        | Inst::Vst { .. }
        | Inst::Vsts { .. }
        | Inst::Vadd { .. }
        | Inst::Vsub { .. }
        | Inst::Vmul { .. }
        | Inst::Vfma { .. }
        | Inst::Vmax { .. }
        | Inst::Vmin { .. }
        | Inst::Vabs { .. }
        | Inst::Vneg { .. }
        | Inst::Vand { .. }
        | Inst::Vor { .. }
        | Inst::Vxor { .. }
        | Inst::Vshl { .. }
        | Inst::Vshr { .. }
        | Inst::Vcmp { .. }
        | Inst::Vsel { .. }
        | Inst::Vmov { .. }
        | Inst::Vbc { .. }
        | Inst::Viota { .. }
        | Inst::Vwhile { .. }
        | Inst::Pand { .. }
        | Inst::Por { .. }
        | Inst::Pandn { .. }
        | Inst::Vexp2 { .. }
        | Inst::Vrcp { .. }
        | Inst::Vrsqrt { .. }
        | Inst::Vtanh { .. }
        | Inst::Vlog2 { .. }
        | Inst::Vredsum { .. }
        | Inst::Vredmax { .. }
        | Inst::Vredmin { .. }
        | Inst::Vcvt { .. }
        | Inst::Vcvtm { .. }
        | Inst::Vquant { .. }
        | Inst::Vpack { .. }
        | Inst::Vunpack { .. }
        | Inst::Vperm { .. }
        | Inst::Vrot { .. }
        | Inst::Sli { .. }
        | Inst::Sadd { .. }
        | Inst::Ssub { .. }
        | Inst::Smul { .. }
        | Inst::Smin { .. }
        | Inst::Smax { .. }
        | Inst::Saddi { .. }
        | Inst::Smuli { .. }
        | Inst::Sshri { .. }
        | Inst::Loop { .. }
        | Inst::Vret { .. } => Err(Trap("a vector instruction in a control program".into())),
    }
}

/// Goes on to the next word.
fn next(machine: &mut Machine, unit: Unit) -> Result<Step, Trap> {
    machine.unit(unit).pc += 1;
    Ok(Step::Done)
}

/// Sets a register and goes on to the next word.
fn done(machine: &mut Machine, unit: Unit, rd: Reg, value: u64) -> Result<Step, Trap> {
    if rd.0 != 0 {
        machine.unit(unit).registers[usize::from(rd.0)] = value;
    }
    next(machine, unit)
}

/// Goes to word `to` of the program, which must have it.
fn go(machine: &mut Machine, unit: Unit, to: i128) -> Result<Step, Trap> {
    let words = program(&machine.image, unit).len() as i128;
    if !(0..words).contains(&to) {
        return Err(Trap(format!("target {to} outside the program")));
    }
    machine.unit(unit).pc = to as u64;
    Ok(Step::Done)
}

/// Targets count words from the branch itself.
fn branch(machine: &mut Machine, unit: Unit, taken: bool, target: i32) -> Result<Step, Trap> {
    if !taken {
        return next(machine, unit);
    }
    let to = i128::from(machine.unit(unit).pc) + i128::from(target);
    go(machine, unit, to)
}

/// Keeps the return address in `rd` and goes to word `to`.
fn jump(machine: &mut Machine, unit: Unit, to: i128, rd: Reg) -> Result<Step, Trap> {
    let back = machine.unit(unit).pc + 1;
    go(machine, unit, to)?;
    if rd.0 != 0 {
        machine.unit(unit).registers[usize::from(rd.0)] = back;
    }
    Ok(Step::Done)
}

/// The offset in the own SRAM of `count` bytes at `base + imm`.
fn own_bytes(
    machine: &mut Machine,
    unit: Unit,
    base: u64,
    imm: i32,
    count: u64,
) -> Result<(super::Place, u64), Trap> {
    let address = wrap(i128::from(base) + i128::from(imm));
    let at = own_sram(&machine.numbers, unit, address)?;
    let place = own_place(unit).ok_or(Trap("no SRAM of its own".into()))?;
    let first = i128::from(at);
    machine
        .memory(place)
        .check(first, first + i128::from(count))?;
    Ok((place, at))
}

fn load(machine: &mut Machine, unit: Unit, base: u64, imm: i32, count: u64) -> Result<u64, Trap> {
    let (place, at) = own_bytes(machine, unit, base, imm, count)?;
    Ok(machine.memory(place).read_word(at, count))
}

fn store(
    machine: &mut Machine,
    unit: Unit,
    base: u64,
    imm: i32,
    count: u64,
    word: u64,
) -> Result<Step, Trap> {
    let (place, at) = own_bytes(machine, unit, base, imm, count)?;
    machine.memory(place).write_word(at, count, word);
    next(machine, unit)
}

/// The index a semaphore operand names.
fn semaphore(numbers: &Numbers, base: u64, imm: u8) -> Result<u64, Trap> {
    let index = wrap(i128::from(base) + i128::from(imm));
    if index < numbers.semaphores {
        return Ok(index);
    }
    Err(Trap(format!(
        "semaphore {index} past {}",
        numbers.semaphores
    )))
}

/// Room for one more clause.
fn room(staged: usize, limit: u64) -> Result<(), Trap> {
    if (staged as u64) < limit {
        return Ok(());
    }
    Err(Trap(format!("more than {limit} clauses staged")))
}

fn stage_signal(machine: &mut Machine, unit: Unit, signal: Signal) -> Result<Step, Trap> {
    let limit = machine.numbers.clauses_per_op;
    let signals = &mut machine.unit(unit).staged.signals;
    room(signals.len(), limit)?;
    signals.push(signal);
    next(machine, unit)
}

/// The numbers of the bits that are set in a mask of `count` units.
pub fn members(mask: u64, count: u64) -> Result<Vec<u64>, Trap> {
    let set: Vec<u64> = (0..64).filter(|bit| mask >> bit & 1 == 1).collect();
    match set.iter().find(|bit| **bit >= count) {
        Some(bit) => Err(Trap(format!("mask {mask:#x} names {bit} of {count}"))),
        None => Ok(set),
    }
}

/// Takes all the waits together if the semaphores hold their sum, else nothing.
pub fn take(machine: &mut Machine, unit: Unit, waits: &[(u64, u64)]) -> bool {
    let semaphores = &mut machine.unit(unit).semaphores;
    let mut left = semaphores.clone();
    for (sem, n) in waits {
        match left[*sem as usize].checked_sub(*n) {
            Some(value) => left[*sem as usize] = value,
            None => return false,
        }
    }
    *semaphores = left;
    true
}

/// Adds to a semaphore.
pub fn post(machine: &mut Machine, (unit, sem, n): Post) -> Result<(), Trap> {
    let max = machine.numbers.semaphore_max;
    let value = &mut machine.unit(unit).semaphores[sem as usize];
    if *value + n > max {
        return Err(Trap(format!("semaphore {sem} of {unit:?}: {value} + {n}")));
    }
    *value += n;
    Ok(())
}

use super::state::Post;

/// Checks a macro-instruction and puts it into its queue, with the clauses that were staged for it.
fn push(machine: &mut Machine, unit: Unit, inst: Inst) -> Result<Step, Trap> {
    let depth = machine.numbers.queue_depth as usize;
    let state = machine.unit(unit);
    let mut operation = Operation {
        inst,
        pc: state.pc,
        registers: state.registers,
        staged: state.staged.clone(),
    };
    let queue = operation::check(machine, unit, &operation)?;
    let state = machine.unit(unit);
    let entries = state.queues.entry(queue).or_default();
    if entries.len() >= depth {
        return Ok(Step::Blocked);
    }
    // Waits and signals are taken by whatever comes next, the others by the next instruction that they are clauses of.
    let kept = &mut state.staged;
    let mut taken = std::mem::take(kept);
    if !operation::takes_dims(&operation.inst) {
        kept.dims = std::mem::take(&mut taken.dims);
        kept.mcast = taken.mcast.take();
        kept.gather = taken.gather.take();
    }
    if !matches!(operation.inst, Inst::Mm { .. }) {
        kept.scales = taken.scales.take();
    }
    operation.staged = taken;
    entries.push_back(operation);
    next(machine, unit)
}

/// Ids, counts and the cycle counter.
fn system_register(numbers: &Numbers, unit: Unit, sr: Sysreg) -> u64 {
    let per_cluster = numbers.tiles_per_cluster;
    let tile = match unit {
        Unit::Tile(t) => t,
        Unit::Cluster(c) => c * per_cluster,
        Unit::Chip => 0,
    };
    match sr {
        Sysreg::Tile => tile,
        Sysreg::Cluster => tile / per_cluster,
        Sysreg::Lane => tile % per_cluster,
        Sysreg::Unit => match unit {
            Unit::Tile(t) => t,
            Unit::Cluster(c) => 0x100 + c,
            Unit::Chip => 0x200,
        },
        Sysreg::Tiles => numbers.tiles(),
        Sysreg::Clusters => numbers.clusters,
        Sysreg::TilesPerCluster => per_cluster,
        Sysreg::Chip => 0,
        Sysreg::Chips => 1,
        Sysreg::Cycle => 0,
    }
}
