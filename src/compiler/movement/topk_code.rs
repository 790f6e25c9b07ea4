//! The kernels of a selection.
//!
//! Models: keys, 32-bit integers in the order of the values ([`Kernels::prepare`]), and picks ([`Kernels::pick`]): each looks for the largest
//! key of every lane over all chunks of a row, then for the largest lane; the pick before is taken out on the way. Up to four streams
//! (rows, or segments of one row) run side by side, for a chunk has a chain of dependent instructions. Leaves out: where rows lie. Invariants: no real
//! key is the least integer, which stands for taken and for padding; places are complemented where the last of equals comes first, so
//! that the smallest always wins.

use super::topk::{TopK, aligned};
use crate::compiler::emit::Text;
use crate::num::Dtype;

/// Most streams of a kernel: registers and predicates for as many.
pub const STREAMS: u64 = 4;

/// Chunks of a row from which on segments pay.
const LONG: u64 = 8;

/// Registers: of stream i the key, the best of each lane and its place, then the place that was picked, and scratch.
fn key(i: u64) -> u64 {
    1 + i
}
fn best(i: u64) -> u64 {
    5 + i
}
fn place(i: u64) -> u64 {
    9 + i
}
fn picked(i: u64) -> u64 {
    13 + i
}
/// Place of lane 0.. of the chunk at hand; scratch between scans.
fn here(i: u64) -> u64 {
    17 + i
}
const STEP: u64 = 21;
const LEAST: u64 = 22;
const MOST: u64 = 23;
const MANTISSA: u64 = 24;
const ONES: u64 = 25;

/// Sizes and decisions.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    op: TopK,
    lanes: u64,
    /// Rows in a buffer, and streams of `pick_all`.
    pub together: u64,
    /// Streams of `pick_one`.
    pub segments: u64,
    /// Bytes of a row, of its values and places, of its state.
    pub row: u64,
    pub values: u64,
    pub places: u64,
    pub state: u64,
}

impl Kernels {
    pub fn new(op: &TopK, lanes: u64, together: u64) -> Kernels {
        let chunks = op.n.div_ceil(lanes);
        // Rows side by side are streams already.
        let segments = match together == 1 && chunks >= LONG {
            true => STREAMS,
            false => 1,
        };
        Kernels {
            op: *op,
            lanes,
            together,
            segments,
            row: chunks.next_multiple_of(segments) * 4 * lanes,
            values: aligned(op.k * u64::from(op.dtype.bits() / 8)),
            places: aligned(4 * op.k),
            state: 4 * lanes,
        }
    }

    /// Bytes of a buffer.
    pub fn slot(&self) -> u64 {
        aligned(self.together * (self.row + self.values + self.places + self.state))
    }

    /// Chunks of a row, padding included.
    fn chunks(&self) -> u64 {
        self.row / (4 * self.lanes)
    }

    /// Instructions of a pick, at most.
    pub fn instructions(&self) -> u64 {
        let streams = self.together.max(self.segments);
        (self.chunks() / self.segments + 1) * (8 * streams + 8) + 64 * streams
    }

    /// Cycles of a pick, about: a chain of four dependent instructions for a chunk, two trees.
    pub fn cycles(&self) -> u64 {
        20 * (self.chunks() / self.segments) + 160
    }

    pub fn emit(&self, text: &mut Text) {
        self.prepare(text);
        self.pick(text, "pick_one", 1, self.segments);
        if self.together > 1 {
            self.pick(text, "pick_all", self.together, 1);
        }
    }

    fn constants(&self, text: &mut Text, list: &[(u64, i64)]) {
        for (register, value) in list {
            text.block(&format!("sli s15, {value}\nvbc.i32 v{register}, s15"));
        }
    }

    /// `prepare`: keys instead of values, in place. s1: rows, s4: how many, s5: states.
    ///
    /// Bits of a number that is not negative are its key; those of a negative one are turned over but for the sign. Adding zero makes
    /// a zero positive and a NaN canonical, which is above infinity.
    fn prepare(&self, text: &mut Text) {
        let (lanes, n) = (self.lanes, self.op.n);
        let bytes = 4 * lanes;
        let (full, tail) = (n / lanes, n % lanes);
        text.blank();
        text.directive(".kernel prepare");
        self.constants(
            text,
            &[
                (LEAST, i64::from(i32::MIN)),
                (MOST, i64::from(i32::MAX)),
                (MANTISSA, 0x7fff_ffff),
                (ONES, -1),
            ],
        );
        text.inst("loop s4, prepared");
        text.inst("smv s6, s1");
        if full >= STREAMS {
            text.block(&format!("sli s7, {}\nloop s7, whole", full / STREAMS));
            self.keys(text, STREAMS, None);
            text.inst(&format!("saddi s6, s6, {}", STREAMS * bytes));
            text.label("whole");
        }
        if full % STREAMS > 0 {
            self.keys(text, full % STREAMS, None);
        }
        let mut at = full % STREAMS;
        if tail > 0 {
            text.block(&format!(
                "sli s7, {tail}\nvwhile.f32 p7, s7\nsaddi s6, s6, {}",
                at * bytes
            ));
            self.keys(text, 1, Some(7));
            at = 1;
        }
        for _ in n.div_ceil(lanes)..self.chunks() {
            text.inst(&format!("vst.i32 v{LEAST}, {}(s6)", at * bytes));
            at += 1;
        }
        text.block(&format!(
            "vst.i32 v{MOST}, 0(s5)
             saddi s5, s5, {bytes}
             saddi s1, s1, {}
             prepared:
             vret",
            self.row
        ));
    }

    /// Keys of the chunks from s6 on, side by side; of one of which only the lanes of a predicate are there.
    fn keys(&self, text: &mut Text, chunks: u64, only: Option<u64>) {
        let each = |text: &mut Text, line: &dyn Fn(u64) -> String| {
            (0..chunks).for_each(|i| text.inst(&line(i)));
        };
        let on = only.map_or(String::new(), |p| format!(" ?p{p}"));
        let bytes = 4 * self.lanes;
        each(text, &|i| {
            format!("vld.f32 v{}, {}(s6){on}", key(i), i * bytes)
        });
        each(text, &|i| format!("vadd.f32 v{0}, v{0}, v0", key(i)));
        each(text, &|i| {
            format!("vcmp.lt.i32 p{}, v{}, v0", i + 1, key(i))
        });
        each(text, &|i| {
            format!("vxor v{0}, v{0}, v{MANTISSA} ?p{1}", key(i), i + 1)
        });
        if !self.op.largest {
            each(text, &|i| format!("vxor v{0}, v{0}, v{ONES}", key(i)));
        }
        if let Some(p) = only {
            each(text, &|i| {
                format!("vsel.i32 v{0}, p{p}, v{0}, v{LEAST}", key(i))
            });
        }
        each(text, &|i| format!("vst.i32 v{}, {}(s6)", key(i), i * bytes));
    }

    /// s1: rows, s2: values, s3: places, s4: picks, s5: states. `rows` streams, or as many segments of one row.
    fn pick(&self, text: &mut Text, name: &str, rows: u64, segments: u64) {
        let bytes = 4 * self.lanes;
        let streams = rows * segments;
        let chunks = self.chunks() / segments;
        let last = self.op.last_of_equals;
        // In a later chunk an equal key has the larger place.
        let beats = if last { "ge" } else { "gt" };
        let row = |i: u64| if segments > 1 { 0 } else { i };
        let segment = |i: u64| if segments > 1 { i } else { 0 };
        let offset = |i: u64| row(i) * self.row + segment(i) * chunks * bytes;
        let over = |text: &mut Text, count: u64, line: &dyn Fn(u64) -> String| {
            (0..count).for_each(|i| text.inst(&line(i)));
        };
        let label = |stem: &str| format!("{stem}_{name}");
        text.blank();
        text.directive(&format!(".kernel {name}"));
        let step = self.lanes as i64;
        self.constants(
            text,
            &[
                (STEP, if last { -step } else { step }),
                (LEAST, i64::from(i32::MIN)),
                (MOST, i64::from(i32::MAX)),
                (MANTISSA, 0x7fff_ffff),
                (ONES, -1),
            ],
        );
        over(text, rows, &|r| {
            format!("vld.i32 v{}, {}(s5)", picked(r), r * bytes)
        });
        text.block(&format!(
            "sli s6, 1
             vwhile.f32 p7, s6       # lane 0
             loop s4, {}",
            label("end")
        ));
        // Rows have the same places.
        for i in 0..segments {
            text.inst(&format!("sli s7, {}", i * chunks * self.lanes));
            text.inst(&format!("viota v{}, s7", here(i)));
            if last {
                text.inst(&format!("vxor v{0}, v{0}, v{ONES}", here(i)));
            }
        }
        over(text, streams, &|i| format!("vmov v{}, v{LEAST}", best(i)));
        over(text, streams, &|i| format!("vmov v{}, v{MOST}", place(i)));
        text.block(&format!(
            "smv s6, s1\nsli s7, {chunks}\nloop s7, {}",
            label("scanned")
        ));
        over(text, streams, &|i| {
            format!("vld.i32 v{}, {}(s6)", key(i), offset(i))
        });
        over(text, streams, &|i| {
            format!(
                "vcmp.eq.i32 p{}, v{}, v{}",
                i + 1,
                here(segment(i)),
                picked(row(i))
            )
        });
        over(text, streams, &|i| {
            format!("vsel.i32 v{0}, p{1}, v{LEAST}, v{0}", key(i), i + 1)
        });
        over(text, streams, &|i| {
            format!("vst.i32 v{}, {}(s6)", key(i), offset(i))
        });
        over(text, streams, &|i| {
            format!("vcmp.{beats}.i32 p{}, v{}, v{}", i + 1, key(i), best(i))
        });
        over(text, streams, &|i| {
            format!("vsel.i32 v{0}, p{1}, v{2}, v{0}", best(i), i + 1, key(i))
        });
        over(text, streams, &|i| {
            format!(
                "vsel.i32 v{0}, p{1}, v{2}, v{0}",
                place(i),
                i + 1,
                here(segment(i))
            )
        });
        over(text, segments, &|i| {
            format!("vadd.i32 v{0}, v{0}, v{STEP}", here(i))
        });
        text.inst(&format!("saddi s6, s6, {bytes}"));
        text.label(&label("scanned"));
        for i in 1..segments {
            text.block(&format!(
                "vcmp.{beats}.i32 p1, v{from}, v{to}
                 vsel.i32 v{to}, p1, v{from}, v{to}
                 vsel.i32 v{0}, p1, v{1}, v{0}",
                place(0),
                place(i),
                from = best(i),
                to = best(0)
            ));
        }
        over(text, rows, &|r| format!("vmov v{}, v{}", key(r), best(r)));
        self.tree(text, rows, "vmax", key);
        over(text, rows, &|r| {
            format!("vcmp.eq.i32 p{}, v{}, v{}", r + 1, best(r), key(r))
        });
        over(text, rows, &|r| {
            format!(
                "vsel.i32 v{}, p{}, v{}, v{MOST}",
                picked(r),
                r + 1,
                place(r)
            )
        });
        self.tree(text, rows, "vmin", picked);
        self.results(text, rows);
        text.label(&label("end"));
        over(text, rows, &|r| {
            format!("vst.i32 v{}, {}(s5)", picked(r), r * bytes)
        });
        text.inst("vret");
    }

    /// The largest or smallest lane, in every lane: rotations by 1, 2, 4, .. lanes until all have met.
    fn tree(&self, text: &mut Text, rows: u64, op: &str, register: fn(u64) -> u64) {
        let mut distance = 1;
        while distance < self.lanes {
            for r in 0..rows {
                text.inst(&format!(
                    "vrot.i32 v{}, v{}, {distance}",
                    here(r),
                    register(r)
                ));
            }
            for r in 0..rows {
                text.inst(&format!("{op}.i32 v{0}, v{0}, v{1}", register(r), here(r)));
            }
            distance *= 2;
        }
    }

    /// Values and places of a pick, from keys that are the same in every lane.
    fn results(&self, text: &mut Text, rows: u64) {
        let TopK {
            dtype,
            largest,
            last_of_equals,
            ..
        } = self.op;
        let mut over = |line: &dyn Fn(u64) -> String| (0..rows).for_each(|r| text.inst(&line(r)));
        if last_of_equals {
            over(&|r| format!("vxor v{}, v{}, v{ONES}", here(r), picked(r)));
        } else {
            over(&|r| format!("vmov v{}, v{}", here(r), picked(r)));
        }
        over(&|r| format!("vst.i32 v{}, {}(s3) ?p7", here(r), r * self.places));
        if !largest {
            over(&|r| format!("vxor v{0}, v{0}, v{ONES}", key(r)));
        }
        over(&|r| format!("vcmp.lt.i32 p{}, v{}, v0", r + 1, key(r)));
        over(&|r| format!("vxor v{0}, v{0}, v{MANTISSA} ?p{1}", key(r), r + 1));
        if dtype != Dtype::F32 {
            // It was of this type: nothing is rounded, and infinities stay.
            over(&|r| format!("vcvtm.rne.ieee.{dtype}.f32 v{0}, v{0}, v0, 0, 0", key(r)));
        }
        over(&|r| format!("vst.{dtype} v{}, {}(s2) ?p7", key(r), r * self.values));
        let size = dtype.bits() / 8;
        text.block(&format!("saddi s2, s2, {size}\nsaddi s3, s3, 4"));
    }
}
