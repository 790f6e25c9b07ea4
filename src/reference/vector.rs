//! Vector kernels of the reference: `isa/tvp.toml`.
//!
//! Models: the control flow of kernels, scalar registers, loads and stores. What instructions do between registers is in
//! [`super::lanes`]. Leaves out: slots. Invariant: a kernel touches nothing but registers, the own TSRAM and the flags.

use super::lanes::Registers;
use super::{FLAG_VECTOR, KernelTrap, Memory, Numbers, Trap, Unit, address};
use crate::isa::image::Image;
use crate::isa::{Dtype, Inst, PReg, SReg, VReg};

/// Most instructions that one launch may run.
const MAX_STEPS: u64 = 1 << 28;

/// How a range of instructions ended.
enum Flow {
    /// At its end.
    Through,
    /// With `vret`.
    Returned,
}

struct Run<'a> {
    numbers: &'a Numbers,
    code: &'a [Inst],
    tile: u64,
    tsram: &'a mut Memory,
    s: [u64; 16],
    registers: Registers,
    steps: u64,
}

/// Runs a kernel that exists on a tile; its arguments are in s1 and up.
///
/// # Errors
/// The instruction that traps. What it and those before it wrote stays.
pub fn run_kernel(
    numbers: &Numbers,
    image: &Image,
    kernel: u16,
    args: &[u64],
    tile: u64,
    tsram: &mut Memory,
    flags: &mut u64,
) -> Result<(), KernelTrap> {
    let kernel = &image.kernels[usize::from(kernel)];
    let mut s = [0; 16];
    s[1..=args.len()].copy_from_slice(args);
    let mut run = Run {
        numbers,
        code: &image.kernel_code.insts,
        tile,
        tsram,
        s,
        registers: Registers::new(numbers.lanes_32 as usize),
        steps: 0,
    };
    let (start, end) = (
        u64::from(kernel.start),
        u64::from(kernel.start + kernel.len),
    );
    let ended = run.range(start, end, 0);
    if run.registers.lost_nan {
        *flags |= FLAG_VECTOR;
    }
    match ended? {
        Flow::Returned => Ok(()),
        Flow::Through => Err(KernelTrap {
            word: start.max(end.saturating_sub(1)),
            trap: Trap("past the end of the kernel".to_owned()),
        }),
    }
}

impl Run<'_> {
    /// The instructions from `pc` up to `end`, inside of `depth` loops.
    fn range(&mut self, mut pc: u64, end: u64, depth: u64) -> Result<Flow, KernelTrap> {
        while pc < end {
            let at = |trap| KernelTrap { word: pc, trap };
            if self.steps == MAX_STEPS {
                return Err(at(Trap(format!("more than {MAX_STEPS} instructions"))));
            }
            self.steps += 1;
            match self.code[pc as usize] {
                Inst::Vret {} => return Ok(Flow::Returned),
                Inst::Loop { sa, target } => {
                    let to = pc as i64 + i64::from(target);
                    if to <= pc as i64 || to > end as i64 {
                        return Err(at(Trap(format!("loop to {to}"))));
                    }
                    if depth == self.numbers.loop_depth {
                        return Err(at(Trap(format!("more than {depth} loops"))));
                    }
                    let mut left = self.scalar(sa);
                    // An empty body takes no time, however often it runs.
                    while left > 0 && pc + 1 < to as u64 {
                        if let Flow::Returned = self.range(pc + 1, to as u64, depth + 1)? {
                            return Ok(Flow::Returned);
                        }
                        left -= 1;
                    }
                    pc = to as u64;
                }
                inst => {
                    self.instruction(inst).map_err(at)?;
                    pc += 1;
                }
            }
        }
        Ok(Flow::Through)
    }

    /// A scalar register as a signed number; s0 is never written.
    fn scalar(&self, s: SReg) -> i64 {
        self.s[s.index()] as i64
    }

    fn instruction(&mut self, inst: Inst) -> Result<(), Trap> {
        let s = |register: SReg| self.s[register.index()];
        let (sd, value) = match inst {
            Inst::Sli { sd, imm } => (sd, imm as u64),
            Inst::Sadd { sd, sa, sb } => (sd, s(sa).wrapping_add(s(sb))),
            Inst::Ssub { sd, sa, sb } => (sd, s(sa).wrapping_sub(s(sb))),
            Inst::Smul { sd, sa, sb } => (sd, s(sa).wrapping_mul(s(sb))),
            Inst::Smin { sd, sa, sb } => (sd, self.scalar(sa).min(self.scalar(sb)) as u64),
            Inst::Smax { sd, sa, sb } => (sd, self.scalar(sa).max(self.scalar(sb)) as u64),
            Inst::Saddi { sd, sa, imm } => (sd, s(sa).wrapping_add(i64::from(imm) as u64)),
            Inst::Smuli { sd, sa, imm } => (sd, s(sa).wrapping_mul(i64::from(imm) as u64)),
            Inst::Sshri { sd, sa, imm } => (sd, s(sa) >> imm),
            _ => return self.vector_instruction(inst),
        };
        if sd.index() != 0 {
            self.s[sd.index()] = value;
        }
        Ok(())
    }

    fn vector_instruction(&mut self, inst: Inst) -> Result<(), Trap> {
        let element = |dt| i64::from(Registers::size(dt) as u32);
        match inst {
            Inst::Vld { dt, vd, sa, imm, p } => self.load(dt, vd, (sa, imm), element(dt), p),
            Inst::Vlds {
                dt,
                vd,
                sa,
                imm,
                ss,
                p,
            } => self.load(dt, vd, (sa, imm), self.scalar(ss), p),
            Inst::Vldb { dt, vd, sa, imm, p } => self.load(dt, vd, (sa, imm), 0, p),
            Inst::Vst { dt, va, sa, imm, p } => self.store(dt, va, (sa, imm), element(dt), p),
            Inst::Vsts {
                dt,
                va,
                sa,
                imm,
                ss,
                p,
            } => self.store(dt, va, (sa, imm), self.scalar(ss), p),
            _ => self.registers.instruction(inst, |s| self.s[s.index()]),
        }
    }

    /// Offset in the own TSRAM of lane `i`: sa + imm must name the own TSRAM, i strides are added to its offset.
    fn lane_offset(
        &self,
        dt: Dtype,
        (sa, imm): (SReg, i32),
        i: usize,
        stride: i64,
    ) -> Result<u64, Trap> {
        let first = self.scalar(sa).wrapping_add(i64::from(imm)) as u64;
        let first = address::own_sram(self.numbers, Unit::Tile(self.tile), first)?;
        let offset = i128::from(first) + i as i128 * i128::from(stride);
        self.tsram
            .check(offset, offset + Registers::size(dt) as i128)?;
        Ok(offset as u64)
    }

    fn load(
        &mut self,
        dt: Dtype,
        vd: VReg,
        from: (SReg, i32),
        stride: i64,
        p: PReg,
    ) -> Result<(), Trap> {
        let size = Registers::size(dt);
        let mut lanes = vec![0; self.registers.lanes(dt)];
        for (i, lane) in lanes.iter_mut().enumerate() {
            if self.registers.active(p, i) {
                let offset = self.lane_offset(dt, from, i, stride)?;
                *lane = self.tsram.read_word(offset, size as u64) as u32;
            }
        }
        self.registers.clear(vd);
        for (i, lane) in lanes.into_iter().enumerate() {
            self.registers.set(vd, size, i, lane);
        }
        Ok(())
    }

    fn store(
        &mut self,
        dt: Dtype,
        va: VReg,
        to: (SReg, i32),
        stride: i64,
        p: PReg,
    ) -> Result<(), Trap> {
        let size = Registers::size(dt);
        for i in 0..self.registers.lanes(dt) {
            if self.registers.active(p, i) {
                let offset = self.lane_offset(dt, to, i, stride)?;
                let lane = self.registers.get(va, size, i);
                self.tsram.write_word(offset, size as u64, lane.into());
            }
        }
        Ok(())
    }
}
