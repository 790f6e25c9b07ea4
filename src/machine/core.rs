//! The control processor: scalar code of tiles, clusters and the chip.
//!
//! Models: registers, program counter, staged clauses, one instruction a step. Leaves out: cycles, and anything that waits:
//! [`Core::step`] never blocks but says in its [`Action`] what the runner must finish before the next step. Invariants: a
//! step that traps changes nothing but the trap; otherwise the program counter has moved on; r0 stays zero.

use super::memory::Memory;
use super::op::{Dim, MacroOp, Post, ScaleArray, Signal, UnitId, Wait};
use super::place;
use super::push;
use super::state::Semaphores;
use super::trap::{TrapKind, processor};
use crate::chip::Chip;
use crate::isa::image::Image;
use crate::isa::{Inst, InstInfo, Reg, Sysreg};

/// Clauses staged for the next macro-instruction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Staged {
    /// `wait`
    pub waits: Vec<Wait>,
    /// `signal*`
    pub signals: Vec<Signal>,
    /// `dim`, outermost first.
    pub dims: Vec<Dim>,
    /// `mcast`: the mask.
    pub mcast: Option<u64>,
    /// `gather`: address of the table, bytes per index.
    pub gather: Option<(u64, i64)>,
    /// `mm.scale`: the arrays of A and B, addresses not yet resolved.
    pub scales: Option<[ScaleArray; 2]>,
}

impl Staged {
    /// The first clause that is staged.
    fn any(&self) -> Option<&'static str> {
        [
            (!self.waits.is_empty(), "wait"),
            (!self.signals.is_empty(), "signal"),
            (!self.dims.is_empty(), "dim"),
            (self.mcast.is_some(), "mcast"),
            (self.gather.is_some(), "gather"),
            (self.scales.is_some(), "mm.scale"),
        ]
        .into_iter()
        .find_map(|(staged, name)| staged.then_some(name))
    }
}

/// A control processor.
#[derive(Clone, Debug, PartialEq)]
pub struct Core {
    /// Registers; index 0 stays 0.
    pub regs: [u64; 32],
    /// Word of the next instruction.
    pub pc: u32,
    /// Done.
    pub halted: bool,
    /// Clauses of the next macro-instruction.
    pub staged: Staged,
    /// Instructions executed.
    pub retired: u64,
    /// Sticky conversion flags of the unit: [`FLAG_DMA`], [`FLAG_VECTOR`]. Its engines set them, `rdflags` takes them.
    pub flags: u8,
}

/// A NaN met a type that has none in a conversion by the unit's DMA.
pub const FLAG_DMA: u8 = 1;
/// The same in one by its vector processor.
pub const FLAG_VECTOR: u8 = 2;

/// What a step needs of its surroundings.
pub struct CoreContext<'a> {
    /// The chip.
    pub chip: &'a Chip,
    /// The program.
    pub image: &'a Image,
    /// The processor's unit.
    pub unit: UnitId,
    /// The own SRAM: TSRAM of a tile, CSRAM of a cluster, none of the chip.
    pub local: Option<&'a mut Memory>,
    /// The own semaphores.
    pub sems: &'a Semaphores,
    /// Chip clock cycles since reset; 0 in an untimed run.
    pub cycle: u64,
}

/// What a step did, and what the runner has to do before the next one.
#[derive(Clone, Debug)]
pub enum Action {
    /// Done within the processor; its cost class is in the metadata.
    Ran(&'static InstInfo),
    /// Put the operation into its queue once that has room.
    Push(Box<MacroOp>),
    /// Take from the own semaphore once it holds enough.
    SemWait(Wait),
    /// Add to a semaphore.
    Post(Post),
    /// The processor stopped, now or before.
    Halted,
}

impl Core {
    /// A processor at the start of its program; halted if the program is empty.
    pub fn new(image: &Image, unit: UnitId) -> Core {
        Core {
            regs: [0; 32],
            pc: 0,
            halted: image.program(processor(unit)).insts.is_empty(),
            staged: Staged::default(),
            retired: 0,
            flags: 0,
        }
    }

    /// A register's value.
    #[inline(always)]
    pub fn reg(&self, r: Reg) -> u64 {
        self.regs[r.index()]
    }

    #[inline(always)]
    fn set(&mut self, r: Reg, value: u64) {
        if r.0 != 0 {
            self.regs[r.index()] = value;
        }
    }

    /// Executes one instruction.
    ///
    /// # Errors
    /// The trap of that instruction; `pc` still names it.
    pub fn step(&mut self, ctx: &mut CoreContext) -> Result<Action, TrapKind> {
        if self.halted {
            return Ok(Action::Halted);
        }
        let insts = &ctx.image.program(processor(ctx.unit)).insts;
        let Some(inst) = insts.get(self.pc as usize) else {
            let len = insts.len() as u32;
            return Err(TrapKind::PastEnd { len });
        };
        let mut next = self.pc + 1;
        let action = match self.scalar(inst, ctx, &mut next)? {
            true => Action::Ran(inst.info()),
            false => self.other(inst, ctx)?,
        };
        self.pc = next;
        self.retired += 1;
        Ok(action)
    }

    /// Register, branch and memory instructions; false if `inst` is none of them.
    #[inline(always)]
    fn scalar(
        &mut self,
        inst: &Inst,
        ctx: &mut CoreContext,
        next: &mut u32,
    ) -> Result<bool, TrapKind> {
        let r = |x: Reg| self.regs[x.index()];
        let sext = |imm: i32| i64::from(imm) as u64;
        let (rd, value) = match *inst {
            Inst::Add { rd, rs1, rs2 } => (rd, r(rs1).wrapping_add(r(rs2))),
            Inst::Sub { rd, rs1, rs2 } => (rd, r(rs1).wrapping_sub(r(rs2))),
            Inst::Mul { rd, rs1, rs2 } => (rd, r(rs1).wrapping_mul(r(rs2))),
            Inst::Divu { rd, rs1, rs2 } => {
                let quotient = r(rs1).checked_div(r(rs2));
                (rd, quotient.ok_or(TrapKind::DivideByZero)?)
            }
            Inst::Remu { rd, rs1, rs2 } => {
                let remainder = r(rs1).checked_rem(r(rs2));
                (rd, remainder.ok_or(TrapKind::DivideByZero)?)
            }
            Inst::And { rd, rs1, rs2 } => (rd, r(rs1) & r(rs2)),
            Inst::Or { rd, rs1, rs2 } => (rd, r(rs1) | r(rs2)),
            Inst::Xor { rd, rs1, rs2 } => (rd, r(rs1) ^ r(rs2)),
            Inst::Shl { rd, rs1, rs2 } => (rd, r(rs1) << (r(rs2) & 63)),
            Inst::Shr { rd, rs1, rs2 } => (rd, r(rs1) >> (r(rs2) & 63)),
            Inst::Sra { rd, rs1, rs2 } => (rd, (r(rs1) as i64 >> (r(rs2) & 63)) as u64),
            Inst::Slt { rd, rs1, rs2 } => (rd, u64::from((r(rs1) as i64) < r(rs2) as i64)),
            Inst::Sltu { rd, rs1, rs2 } => (rd, u64::from(r(rs1) < r(rs2))),
            Inst::Min { rd, rs1, rs2 } => (rd, (r(rs1) as i64).min(r(rs2) as i64) as u64),
            Inst::Max { rd, rs1, rs2 } => (rd, (r(rs1) as i64).max(r(rs2) as i64) as u64),
            Inst::Addi { rd, rs1, imm } => (rd, r(rs1).wrapping_add(sext(imm))),
            Inst::Muli { rd, rs1, imm } => (rd, r(rs1).wrapping_mul(sext(imm))),
            Inst::Andi { rd, rs1, imm } => (rd, r(rs1) & sext(imm)),
            Inst::Ori { rd, rs1, imm } => (rd, r(rs1) | sext(imm)),
            Inst::Xori { rd, rs1, imm } => (rd, r(rs1) ^ sext(imm)),
            Inst::Shli { rd, rs1, imm } => (rd, r(rs1) << (imm & 63)),
            Inst::Shri { rd, rs1, imm } => (rd, r(rs1) >> (imm & 63)),
            Inst::Srai { rd, rs1, imm } => (rd, (r(rs1) as i64 >> (imm & 63)) as u64),
            Inst::Slti { rd, rs1, imm } => (rd, u64::from((r(rs1) as i64) < i64::from(imm))),
            Inst::Li { rd, imm } => (rd, imm as u64),
            Inst::Rdsr { rd, sr } => (rd, system_register(sr, ctx)),
            Inst::Beq { rs1, rs2, target } => {
                return self.branch(r(rs1) == r(rs2), target, ctx, next);
            }
            Inst::Bne { rs1, rs2, target } => {
                return self.branch(r(rs1) != r(rs2), target, ctx, next);
            }
            Inst::Blt { rs1, rs2, target } => {
                return self.branch((r(rs1) as i64) < r(rs2) as i64, target, ctx, next);
            }
            Inst::Bge { rs1, rs2, target } => {
                return self.branch(r(rs1) as i64 >= r(rs2) as i64, target, ctx, next);
            }
            Inst::Bltu { rs1, rs2, target } => {
                return self.branch(r(rs1) < r(rs2), target, ctx, next);
            }
            Inst::Bgeu { rs1, rs2, target } => {
                return self.branch(r(rs1) >= r(rs2), target, ctx, next);
            }
            Inst::Jal { rd, target } => {
                self.branch(true, target, ctx, next)?;
                (rd, u64::from(self.pc) + 1)
            }
            Inst::Jalr { rd, rs1, imm } => {
                let to = r(rs1).wrapping_add(sext(imm)) as i64;
                *next = target_word(to, ctx)?;
                (rd, u64::from(self.pc) + 1)
            }
            Inst::Lbu { rd, rs1, imm } => (rd, u64::from(load::<1>(r(rs1), imm, ctx)?[0])),
            Inst::Lw { rd, rs1, imm } => {
                let word = i32::from_le_bytes(load(r(rs1), imm, ctx)?);
                (rd, i64::from(word) as u64)
            }
            Inst::Ld { rd, rs1, imm } => (rd, u64::from_le_bytes(load(r(rs1), imm, ctx)?)),
            Inst::Ldc { rd, rs1, imm } => {
                let index = r(rs1).wrapping_add(sext(imm));
                let table = &ctx.image.constants;
                let word = usize::try_from(index).ok().and_then(|i| table.get(i));
                let len = table.len() as u64;
                (rd, *word.ok_or(TrapKind::Constant { index, len })?)
            }
            Inst::Sb { rs2, rs1, imm } => {
                return store(r(rs1), imm, &r(rs2).to_le_bytes()[..1], ctx);
            }
            Inst::Sw { rs2, rs1, imm } => {
                return store(r(rs1), imm, &r(rs2).to_le_bytes()[..4], ctx);
            }
            Inst::Sd { rs2, rs1, imm } => return store(r(rs1), imm, &r(rs2).to_le_bytes(), ctx),
            _ => return Ok(false),
        };
        self.set(rd, value);
        Ok(true)
    }

    fn branch(
        &self,
        taken: bool,
        target: i32,
        ctx: &CoreContext,
        next: &mut u32,
    ) -> Result<bool, TrapKind> {
        if taken {
            *next = target_word(i64::from(self.pc) + i64::from(target), ctx)?;
        }
        Ok(true)
    }

    /// Everything that stages, pushes, waits, posts or ends.
    fn other(&mut self, inst: &Inst, ctx: &CoreContext) -> Result<Action, TrapKind> {
        match *inst {
            Inst::Halt {} => {
                if let Some(clause) = self.staged.any() {
                    return Err(TrapKind::StagedUnused { clause });
                }
                self.halted = true;
                Ok(Action::Halted)
            }
            Inst::Trap { code } => Err(TrapKind::Program(code)),
            Inst::SemWait { sem, rs1, n } => {
                let sem = self.semaphore(sem, rs1, ctx)?;
                Ok(Action::SemWait(Wait {
                    sem,
                    n: u16::from(n),
                }))
            }
            Inst::SemPost { unit, sem, rs1, n } => {
                let unit = place::unit(ctx.chip, self.reg(unit))?;
                let sem = self.semaphore(sem, rs1, ctx)?;
                Ok(Action::Post(Post {
                    unit,
                    sem,
                    n: u16::from(n),
                }))
            }
            Inst::SemRead { rd, sem, rs1 } => {
                let sem = self.semaphore(sem, rs1, ctx)?;
                let value = ctx.sems.values[usize::from(sem)];
                self.set(rd, u64::from(value));
                Ok(Action::Ran(inst.info()))
            }
            Inst::Rdflags { rd } => {
                let payloads = ctx.local.as_ref().map(|memory| memory.layout());
                if let Some(Some(_)) = payloads {
                    return Err(TrapKind::FlagsWithoutData);
                }
                let flags = std::mem::take(&mut self.flags);
                self.set(rd, u64::from(flags));
                Ok(Action::Ran(inst.info()))
            }
            _ if push::stage(self, inst, ctx)? => Ok(Action::Ran(inst.info())),
            _ => push::operation(self, inst, ctx).map(|op| Action::Push(Box::new(op))),
        }
    }

    /// The index a semaphore operand names.
    pub(super) fn semaphore(&self, imm: u8, base: Reg, ctx: &CoreContext) -> Result<u16, TrapKind> {
        place::semaphore(ctx.chip, self.reg(base).wrapping_add(u64::from(imm)))
    }
}

fn target_word(target: i64, ctx: &CoreContext) -> Result<u32, TrapKind> {
    let len = ctx.image.program(processor(ctx.unit)).insts.len() as u32;
    match u32::try_from(target) {
        Ok(word) if word < len => Ok(word),
        _ => Err(TrapKind::Target { target, len }),
    }
}

fn load<const N: usize>(base: u64, imm: i32, ctx: &mut CoreContext) -> Result<[u8; N], TrapKind> {
    let offset = own_offset(base, imm, ctx)?;
    let mut bytes = [0; N];
    own(ctx)?.read(offset, &mut bytes)?;
    Ok(bytes)
}

fn store(base: u64, imm: i32, bytes: &[u8], ctx: &mut CoreContext) -> Result<bool, TrapKind> {
    let offset = own_offset(base, imm, ctx)?;
    own(ctx)?.write(offset, bytes)?;
    Ok(true)
}

fn own_offset(base: u64, imm: i32, ctx: &CoreContext) -> Result<u64, TrapKind> {
    place::own_sram(ctx.chip, ctx.unit, base.wrapping_add_signed(i64::from(imm)))
}

fn own<'a>(ctx: &'a mut CoreContext) -> Result<&'a mut Memory, TrapKind> {
    let local = ctx.local.as_deref_mut();
    local.ok_or(TrapKind::NotAvailable(place::kind_name(ctx.unit)))
}

fn system_register(sr: Sysreg, ctx: &CoreContext) -> u64 {
    let per_cluster = ctx.chip.tiles_per_cluster;
    let (tile, cluster) = match ctx.unit {
        UnitId::Tile(t) => (u32::from(t), u32::from(t) / per_cluster),
        UnitId::Cluster(c) => (u32::from(c) * per_cluster, u32::from(c)),
        UnitId::Chip => (0, 0),
    };
    match sr {
        Sysreg::Tile => u64::from(tile),
        Sysreg::Cluster => u64::from(cluster),
        Sysreg::Lane => u64::from(tile % per_cluster),
        Sysreg::Unit => ctx.unit.code(),
        Sysreg::Tiles => u64::from(ctx.chip.tiles()),
        Sysreg::Clusters => u64::from(ctx.chip.clusters),
        Sysreg::TilesPerCluster => u64::from(per_cluster),
        Sysreg::Chip => 0,
        Sysreg::Chips => 1,
        Sysreg::Cycle => ctx.cycle,
    }
}
