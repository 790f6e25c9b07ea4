//! The bytes that a vector kernel reads and writes.
//!
//! Models: a walk of the kernel with its scalar registers and loops, and those predicates that depend on no vector. Leaves
//! out: vector registers. A load or store under a predicate that a comparison made is left out of what is checked, but
//! its bytes count as written where a store may write them. Invariant: for the same launch the same bytes on every tile, in
//! every run: a launch is walked once.

use crate::chip::Chip;
use crate::isa::image::Image;
use crate::isa::{Dtype, Inst, PReg, SReg};
use crate::machine::exec::kernel::Control;
use crate::machine::op::{Launch, UnitId};
use crate::machine::place;
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of the own TSRAM that a launch touches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Read before the kernel wrote them itself.
    pub reads: Vec<Range<u64>>,
    /// Written.
    pub writes: Vec<Range<u64>>,
    /// Possibly written.
    pub may_write: Vec<Range<u64>>,
}

/// A set of bytes.
#[derive(Default)]
struct Bytes(BTreeMap<u64, u64>);

impl Bytes {
    fn add(&mut self, bytes: Range<u64>) {
        let Range { mut start, mut end } = bytes;
        // Most additions go on where the one before ended.
        while let Some((s, e)) = self.0.range(..=end).next_back().map(|(s, e)| (*s, *e)) {
            if e < start {
                break;
            }
            start = start.min(s);
            end = end.max(e);
            self.0.remove(&s);
        }
        self.0.insert(start, end);
    }

    /// The parts of `bytes` that are not in the set.
    fn without(&self, bytes: Range<u64>, out: &mut Bytes) {
        let mut at = bytes.start;
        let first = self.0.range(..=at).next_back().map_or(at, |(s, _)| *s);
        for (start, end) in self.0.range(first..bytes.end) {
            if *end <= at {
                continue;
            }
            if at < *start {
                out.add(at..*start);
            }
            at = *end;
        }
        if at < bytes.end {
            out.add(at..bytes.end);
        }
    }

    fn list(self) -> Vec<Range<u64>> {
        self.0.into_iter().map(|(s, e)| s..e).collect()
    }
}

/// Lanes of a predicate; `None` if a comparison made it.
type Lanes = Option<Vec<bool>>;

struct Walker<'a> {
    chip: &'a Chip,
    unit: UnitId,
    predicates: [Lanes; 8],
    reads: Bytes,
    writes: Bytes,
    may_write: Bytes,
}

/// A load or store: type, first byte, bytes between lanes, predicate, whether it is a store.
struct Line {
    dtype: Dtype,
    raw: u64,
    stride: i64,
    p: PReg,
    store: bool,
}

/// Walks a launch. A kernel that faults gives what it touched before.
pub fn touched(launch: &Launch, image: &Image, chip: &Chip, unit: UnitId) -> Touched {
    let lanes = chip.tvp.lanes_32.max(chip.tvp.lanes_16) as usize;
    let mut walker = Walker {
        chip,
        unit,
        predicates: std::array::from_fn(|_| Some(vec![true; lanes])),
        reads: Bytes::default(),
        writes: Bytes::default(),
        may_write: Bytes::default(),
    };
    let code = &image.kernel_code.insts;
    let mut control = Control::new(launch, image, chip);
    while let Ok(Some(word)) = control.next(code) {
        walker.step(&code[word as usize], &control);
    }
    Touched {
        reads: walker.reads.list(),
        writes: walker.writes.list(),
        may_write: walker.may_write.list(),
    }
}

impl Walker<'_> {
    fn lanes(&self, dtype: Dtype) -> usize {
        match dtype.bits() {
            32 => self.chip.tvp.lanes_32 as usize,
            _ => self.chip.tvp.lanes_16 as usize,
        }
    }

    fn step(&mut self, inst: &Inst, c: &Control) {
        let at = |sa: SReg, imm: i32| c.scalar(sa).wrapping_add(i64::from(imm)) as u64;
        let packed = |dtype: Dtype| i64::from(dtype.bits().div_ceil(8));
        let line = match *inst {
            Inst::Vld { dt, sa, imm, p, .. } => (dt, at(sa, imm), packed(dt), p, false),
            Inst::Vldb { dt, sa, imm, p, .. } => (dt, at(sa, imm), 0, p, false),
            Inst::Vlds {
                dt, sa, imm, ss, p, ..
            } => (dt, at(sa, imm), c.scalar(ss), p, false),
            Inst::Vst { dt, sa, imm, p, .. } => (dt, at(sa, imm), packed(dt), p, true),
            Inst::Vsts {
                dt, sa, imm, ss, p, ..
            } => (dt, at(sa, imm), c.scalar(ss), p, true),
            _ => return self.predicate(inst, c),
        };
        let (dtype, raw, stride, p, store) = line;
        self.touch(&Line {
            dtype,
            raw,
            stride,
            p,
            store,
        });
    }

    fn touch(&mut self, line: &Line) {
        let Ok(base) = place::own_sram(self.chip, self.unit, line.raw) else {
            return;
        };
        let n = self.lanes(line.dtype);
        let size = u64::from(line.dtype.bits().div_ceil(8));
        let lanes = &self.predicates[line.p.index()];
        let mut add = |from: usize, to: usize| {
            let first = i128::from(base) + from as i128 * i128::from(line.stride);
            let end = match line.stride {
                0 => first + i128::from(size),
                _ => first + (to - from) as i128 * i128::from(size),
            };
            let (Ok(first), Ok(end)) = (u64::try_from(first), u64::try_from(end)) else {
                return;
            };
            let bytes = first..end;
            match (line.store, lanes.is_some()) {
                (false, true) => self.writes.without(bytes, &mut self.reads),
                (false, false) => {}
                (true, true) => self.writes.add(bytes),
                (true, false) => self.may_write.add(bytes),
            }
        };
        let on = |lane: usize| lanes.as_ref().is_none_or(|l| l[lane]);
        let packed = line.stride == 0 || line.stride == size as i64;
        let mut lane = 0;
        while lane < n {
            let from = lane;
            while lane < n && on(lane) && (packed || lane == from) {
                lane += 1;
            }
            if from < lane {
                add(from, lane);
            } else {
                lane += 1;
            }
        }
    }

    fn predicate(&mut self, inst: &Inst, c: &Control) {
        let total = self.chip.tvp.lanes_32.max(self.chip.tvp.lanes_16) as usize;
        let both = |a: PReg, b: PReg, f: fn(bool, bool) -> bool| -> Lanes {
            let a = self.predicates[a.index()].as_ref()?;
            let b = self.predicates[b.index()].as_ref()?;
            Some(a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect())
        };
        let (pd, lanes) = match *inst {
            Inst::Vwhile { dt, pd, sa } => {
                let on = c.scalar(sa).clamp(0, self.lanes(dt) as i64) as usize;
                (pd, Some((0..total).map(|lane| lane < on).collect()))
            }
            Inst::Vcmp { pd, .. } => (pd, None),
            Inst::Pand { pd, pa, pb } => (pd, both(pa, pb, |a, b| a && b)),
            Inst::Por { pd, pa, pb } => (pd, both(pa, pb, |a, b| a || b)),
            Inst::Pandn { pd, pa, pb } => (pd, both(pa, pb, |a, b| a && !b)),
            _ => return,
        };
        // p0 stays all on.
        if pd.0 != 0 {
            self.predicates[pd.index()] = lanes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_join_and_subtract() {
        let mut set = Bytes::default();
        for bytes in [10..20, 30..40, 20..25, 5..12, 38..50] {
            set.add(bytes);
        }
        let mut out = Bytes::default();
        set.without(0..60, &mut out);
        set.without(12..14, &mut out);
        assert_eq!(out.list(), [0..5, 25..30, 50..60]);
        assert_eq!(set.list(), [5..25, 30..50]);
    }
}
