//! Addresses of vector kernels: loads and stores, and what is checked of them in a run without data.
//!
//! Models: which bytes of the own TSRAM an instruction's active lanes touch. Leaves out: banks and ports. Invariant: only
//! active lanes are read, written or checked.

use super::convert;
use super::kernel::Control;
use super::lanes::ON;
use super::vector::{State, address, size_of};
use crate::isa::image::Space;
use crate::isa::{Dtype, Inst, PReg, VReg};
use crate::machine::memory::Memory;
use crate::machine::place;
use crate::machine::trap::TrapKind;

impl State<'_> {
    /// Active lanes as a range, and whether every lane in it is active.
    fn active(&self, n: usize, p: PReg) -> Option<(std::ops::Range<usize>, bool)> {
        if p.0 == 0 {
            return Some((0..n, true));
        }
        let mask = &self.p[p.index()][..n];
        let first = mask.iter().position(|on| *on != 0)?;
        let last = mask.iter().rposition(|on| *on != 0)?;
        let dense = mask[first..=last].iter().all(|on| *on != 0);
        Some((first..last + 1, dense))
    }

    /// Offset in the TSRAM of lane 0, which may lie outside when lane 0 is off.
    fn base(&self, raw: u64) -> Result<i128, TrapKind> {
        place::own_sram(self.chip, self.unit, raw).map(i128::from)
    }

    /// Offset of an active lane, in bounds.
    fn lane_offset(
        &self,
        base: i128,
        lane: usize,
        stride: i64,
        size: usize,
    ) -> Result<u64, TrapKind> {
        let first = base + lane as i128 * i128::from(stride);
        place::range(self.chip, Space::Tsram, first, first + size as i128)?;
        Ok(first as u64)
    }

    pub(super) fn load(
        &mut self,
        mem: &Memory,
        dt: Dtype,
        vd: VReg,
        raw: u64,
        stride: i64,
        p: PReg,
    ) -> Result<(), TrapKind> {
        let (size, n) = (size_of(dt), self.lanes(dt));
        let mut out = std::mem::take(&mut self.out);
        out.fill(0);
        let loaded = self.load_lanes(mem, &mut out[..n * size], (raw, stride, size), p);
        self.out = out;
        loaded?;
        std::mem::swap(&mut self.v[vd.index()], &mut self.out);
        Ok(())
    }

    fn load_lanes(
        &self,
        mem: &Memory,
        out: &mut [u8],
        (raw, stride, size): (u64, i64, usize),
        p: PReg,
    ) -> Result<(), TrapKind> {
        let Some((lanes, dense)) = self.active(out.len() / size, p) else {
            return Ok(());
        };
        let base = self.base(raw)?;
        if dense && stride == size as i64 {
            let offset = self.lane_offset(base, lanes.start, stride, lanes.len() * size)?;
            return mem.read(offset, &mut out[lanes.start * size..lanes.end * size]);
        }
        let mask = &self.p[p.index()];
        let (first, rest) = (lanes.start, lanes.start + 1..lanes.end);
        let offset = self.lane_offset(base, first, stride, size)?;
        mem.read(offset, &mut out[first * size..][..size])?;
        if stride == 0 {
            let mut element = [0; 4];
            element[..size].copy_from_slice(&out[first * size..][..size]);
            let whole = out.len();
            for (lane, on) in out.chunks_exact_mut(size).zip(&mask[..whole / size]) {
                if *on != 0 {
                    lane.copy_from_slice(&element[..size]);
                }
            }
            return Ok(());
        }
        for lane in rest.filter(|lane| mask[*lane] != 0) {
            let offset = self.lane_offset(base, lane, stride, size)?;
            mem.read(offset, &mut out[lane * size..][..size])?;
        }
        Ok(())
    }

    pub(super) fn store(
        &mut self,
        mem: &mut Memory,
        dt: Dtype,
        va: VReg,
        raw: u64,
        stride: i64,
        p: PReg,
    ) -> Result<(), TrapKind> {
        let (size, n) = (size_of(dt), self.lanes(dt));
        let Some((lanes, dense)) = self.active(n, p) else {
            return Ok(());
        };
        let base = self.base(raw)?;
        let register = &self.v[va.index()];
        if dense && stride == size as i64 {
            let offset = self.lane_offset(base, lanes.start, stride, lanes.len() * size)?;
            return mem.write(offset, &register[lanes.start * size..lanes.end * size]);
        }
        let mask = &self.p[p.index()];
        for lane in lanes.filter(|lane| mask[*lane] != 0) {
            let offset = self.lane_offset(base, lane, stride, size)?;
            mem.write(offset, &register[lane * size..][..size])?;
        }
        Ok(())
    }

    /// What an instruction does in a run without data: predicates that depend on no vector, and checks of addresses.
    pub(super) fn check(&mut self, inst: &Inst, c: &Control, mem: &Memory) -> Result<(), TrapKind> {
        let (dt, sa, imm, stride, p, store) = match *inst {
            Inst::Vwhile { .. } | Inst::Pand { .. } | Inst::Por { .. } | Inst::Pandn { .. } => {
                self.predicate(inst, c);
                return Ok(());
            }
            Inst::Vcmp { pd, .. } => {
                // Every lane may be on.
                if pd.0 != 0 {
                    self.known[pd.index()] = false;
                    self.p[pd.index()].fill(ON);
                }
                return Ok(());
            }
            Inst::Vcvt { .. } | Inst::Vcvtm { .. } | Inst::Vquant { .. } => {
                return convert::check(inst, self.chip);
            }
            Inst::Vld { dt, sa, imm, p, .. } => (dt, sa, imm, size_of(dt) as i64, p, false),
            Inst::Vldb { dt, sa, imm, p, .. } => (dt, sa, imm, 0, p, false),
            Inst::Vlds {
                dt, sa, imm, ss, p, ..
            } => (dt, sa, imm, c.scalar(ss), p, false),
            Inst::Vst { dt, sa, imm, p, .. } => (dt, sa, imm, size_of(dt) as i64, p, true),
            Inst::Vsts {
                dt, sa, imm, ss, p, ..
            } => (dt, sa, imm, c.scalar(ss), p, true),
            _ => return Ok(()),
        };
        let size = size_of(dt);
        let Some((lanes, _)) = self.active(self.lanes(dt), p) else {
            return Ok(());
        };
        let base = self.base(address(c.scalar(sa), imm))?;
        let mask = &self.p[p.index()];
        for lane in lanes.filter(|lane| mask[*lane] != 0) {
            let offset = match self.lane_offset(base, lane, stride, size) {
                Ok(offset) => offset,
                // The lane may well be off.
                Err(_) if !self.known[p.index()] => continue,
                Err(kind) => return Err(kind),
            };
            let control = mem
                .layout()
                .filter(|_| store)
                .and_then(|layout| layout.control(Space::Tsram, offset, offset + size as u64));
            if let Some(to) = control {
                return Err(TrapKind::PayloadToControl {
                    from: "a vector register".to_owned(),
                    to: to.name.clone(),
                });
            }
        }
        Ok(())
    }
}
