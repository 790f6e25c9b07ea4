//! Control flow of vector kernels: scalar registers and hardware loops.
//!
//! Models: which instruction comes next, and the scalar registers. Leaves out: vector registers, which no control flow
//! depends on; so the timing model walks a kernel with this alone, with or without data. Invariant: a walk ends, after
//! `vret`, a fault or [`MAX_STEPS`].

use crate::chip::Chip;
use crate::isa::image::Image;
use crate::isa::{Inst, SReg};
use crate::machine::op::Launch;
use crate::machine::trap::{KernelFault, TrapKind};

/// Most instructions one launch may run: far beyond any pass over a TSRAM.
pub const MAX_STEPS: u64 = 1 << 28;
/// Most loops a chip may nest (the limit of `tvp.loop_depth`).
const MAX_DEPTH: usize = 16;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Loop {
    /// First word of the body.
    start: u32,
    /// One past its last word.
    end: u32,
    /// Iterations left, the current one included.
    left: i64,
}

/// Where a kernel is.
#[derive(Clone, Debug, PartialEq)]
pub struct Control {
    /// Word of the kernel section that comes next.
    pub pc: u32,
    /// Scalar registers; index 0 stays 0.
    pub s: [i64; 16],
    /// Instructions run.
    pub steps: u64,
    loops: [Loop; MAX_DEPTH],
    depth: usize,
    max_depth: usize,
    start: u32,
    end: u32,
}

/// What one instruction was. The word names it in the kernel section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A scalar instruction, already done.
    Scalar(u32),
    /// A `loop`, already done.
    Loop(u32),
    /// A vector instruction, for the caller to do.
    Vector(u32),
    /// `vret`.
    End(u32),
}

impl Control {
    /// At the start of the launched kernel, with its arguments in s1 and up.
    pub fn new(launch: &Launch, image: &Image, chip: &Chip) -> Control {
        let kernel = &image.kernels[usize::from(launch.kernel)];
        let mut s = [0; 16];
        for (register, arg) in s[1..].iter_mut().zip(&launch.args) {
            *register = *arg as i64;
        }
        Control {
            pc: kernel.start,
            s,
            steps: 0,
            loops: [Loop::default(); MAX_DEPTH],
            depth: 0,
            max_depth: (chip.tvp.loop_depth as usize).min(MAX_DEPTH),
            start: kernel.start,
            end: kernel.start + kernel.len,
        }
    }

    /// A scalar register's value.
    #[inline(always)]
    pub fn scalar(&self, r: SReg) -> i64 {
        self.s[r.index()]
    }

    /// The next vector instruction, scalar instructions and loops before it being done; `None` at the end.
    pub fn next(&mut self, code: &[Inst]) -> Result<Option<u32>, KernelFault> {
        loop {
            match self.step(code)? {
                Step::Vector(word) => return Ok(Some(word)),
                Step::End(_) => return Ok(None),
                Step::Scalar(_) | Step::Loop(_) => {}
            }
        }
    }

    /// One instruction.
    ///
    /// # Errors
    /// A fault of a loop, of running past the kernel, or of too many steps.
    #[inline]
    pub fn step(&mut self, code: &[Inst]) -> Result<Step, KernelFault> {
        let word = self.pc;
        let fault = |kind| KernelFault { word, kind };
        if word >= self.end {
            return Err(KernelFault {
                word: self.end.saturating_sub(1).max(self.start),
                kind: TrapKind::KernelEnd,
            });
        }
        if self.steps == MAX_STEPS {
            return Err(fault(TrapKind::KernelSteps { limit: MAX_STEPS }));
        }
        self.steps += 1;
        self.pc += 1;
        let s = |r: SReg| self.s[r.index()];
        let (sd, value) = match code[word as usize] {
            Inst::Vret {} => {
                self.pc = word;
                return Ok(Step::End(word));
            }
            Inst::Loop { sa, target } => {
                self.enter(word, s(sa), target).map_err(fault)?;
                self.close();
                return Ok(Step::Loop(word));
            }
            Inst::Sli { sd, imm } => (sd, imm),
            Inst::Sadd { sd, sa, sb } => (sd, s(sa).wrapping_add(s(sb))),
            Inst::Ssub { sd, sa, sb } => (sd, s(sa).wrapping_sub(s(sb))),
            Inst::Smul { sd, sa, sb } => (sd, s(sa).wrapping_mul(s(sb))),
            Inst::Smin { sd, sa, sb } => (sd, s(sa).min(s(sb))),
            Inst::Smax { sd, sa, sb } => (sd, s(sa).max(s(sb))),
            Inst::Saddi { sd, sa, imm } => (sd, s(sa).wrapping_add(i64::from(imm))),
            Inst::Smuli { sd, sa, imm } => (sd, s(sa).wrapping_mul(i64::from(imm))),
            Inst::Sshri { sd, sa, imm } => (sd, (s(sa) as u64 >> (imm & 63)) as i64),
            ref inst if inst.info().in_kernel() => {
                self.close();
                return Ok(Step::Vector(word));
            }
            _ => return Err(fault(TrapKind::ControlInKernel)),
        };
        if sd.0 != 0 {
            self.s[sd.index()] = value;
        }
        self.close();
        Ok(Step::Scalar(word))
    }

    fn enter(&mut self, word: u32, count: i64, offset: i32) -> Result<(), TrapKind> {
        let target = i64::from(word) + i64::from(offset);
        if target <= i64::from(word) || target > i64::from(self.end) {
            return Err(TrapKind::LoopTarget { target });
        }
        let end = target as u32;
        if let Some(outer) = self.loops[..self.depth].last()
            && end > outer.end
        {
            let outer = outer.end;
            return Err(TrapKind::LoopNesting { target, outer });
        }
        if self.depth == self.max_depth {
            return Err(TrapKind::LoopDepth {
                depth: self.max_depth as u32,
            });
        }
        let start = word + 1;
        if count <= 0 || start == end {
            self.pc = end;
        } else {
            self.loops[self.depth] = Loop {
                start,
                end,
                left: count,
            };
            self.depth += 1;
        }
        Ok(())
    }

    /// Goes back to the start of every loop that ends here and has iterations left.
    #[inline(always)]
    fn close(&mut self) {
        while let Some(top) = self.loops[..self.depth].last_mut() {
            if self.pc != top.end {
                return;
            }
            top.left -= 1;
            if top.left > 0 {
                self.pc = top.start;
                return;
            }
            self.depth -= 1;
        }
    }
}
