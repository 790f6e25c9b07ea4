//! The vector kernels of attention. Lanes are query rows, vectors run over keys or over the elements of a head.
//!
//! Models: online softmax of S^T[key][row] with no reduction across lanes: maximum, exponential and sum go element by
//! element down the keys. Per set of rows a block of statistics stays in TSRAM ([`STAT_BYTES`]): running maximum `m` in
//! units of log2, running sum `l`, `-m` plus the exponent bias of P (`negm`), and the raw maximum of the next scores (`mx`).
//! The bias scales P and `l` alike, so that the last divide removes it. Leaves out: when kernels run and where operands
//! lie (the schedules). Invariants: lanes past the given number are neither stored nor reach another lane; no kernel makes a NaN
//! from finite scores, because maxima start at [`FLOOR`], not at minus infinity, and masked scores are [`MASKED`].

use super::schedule::{Pointer, Rows, Step, access, compute};
use crate::compiler::emit::Text;
use crate::num::Dtype;

/// Bytes of a vector of 128 FP32 lanes, and of each entry of the statistics.
pub const VECTOR_BYTES: u64 = 512;
/// Offset of the running maximum in the statistics of a set of rows.
pub const STAT_M: u64 = 0;
/// Offset of the running sum.
pub const STAT_L: u64 = VECTOR_BYTES;
/// Offset of bias - m.
pub const STAT_NEGM: u64 = 2 * VECTOR_BYTES;
/// Offset of the maximum of the raw scores of the step to come.
pub const STAT_MX: u64 = 3 * VECTOR_BYTES;
/// Bytes of the statistics of a set of rows.
pub const STAT_BYTES: u64 = 4 * VECTOR_BYTES;

/// Rows of a pass of the exponential loops.
pub const PASS: u64 = 16;
/// Where running maxima start: low enough for any score, high enough that [`MASKED`] stays far below.
pub const FLOOR: f32 = -1e30;
/// A masked raw score. Scaled it is far below [`FLOOR`], so its exponential is zero in every row.
pub const MASKED: f32 = -3e38;
/// Least divisor: a row that saw no key has sum and output zero.
pub(super) const TINY: f32 = 1e-30;

/// What the kernels are generated for.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Type of P: that of Q, K and V.
    pub dtype: Dtype,
    /// log2(e) / sqrt(head_dim).
    pub scale: f32,
    /// Exponent of two that P is scaled by.
    pub bias: i32,
    /// Bytes between rows of S^T.
    pub s_row: u64,
    /// Bytes between rows of P^T.
    pub p_row: u64,
    /// Bytes between rows of O^T and of a partial product.
    pub o_row: u64,
    /// Query heads per K/V head in a set of rows: lane / group is the query.
    pub group: u64,
    /// Queries of a set of rows that repeats along the lanes; lane / group modulo this is the query.
    pub queries: u64,
    /// Whether a score without a value takes part in each softmax.
    pub sinks: bool,
}

/// Emits all kernels that decode launches.
pub fn emit(text: &mut Text, shape: &Shape) {
    let s = *shape;
    init(text);
    lanes(text, &s);
    mask(text, &s);
    max_rows(text, &s);
    begin(text, &s);
    rescale(text, &s);
    exp_rows(text, &s);
    update_first(text, &s);
    update(text, &s);
    join(text, &s);
    if s.sinks {
        begin_sinks(text, &s);
    }
}

pub(super) fn head(text: &mut Text, name: &str, doc: &str, args: &[&str]) {
    text.blank();
    text.comment(doc);
    for (index, arg) in args.iter().enumerate() {
        text.comment(&format!("  s{}: {arg}", index + 1));
    }
    text.directive(&format!(".kernel {name}"));
}

/// p1 = the first lanes of both widths.
pub(super) fn lane_predicate(text: &mut Text, lanes: &str, predicate: &str) {
    text.inst(&format!("vwhile.bf16 {predicate}, {lanes}"));
}

pub(super) fn constant(text: &mut Text, vector: &str, value: f32) {
    text.inst(&format!("sli s15, float({value:e})"));
    text.inst(&format!("vbc.f32 {vector}, s15"));
}

/// s`passes` = rows / unroll, s`rest` = rows modulo unroll. `unroll` is a power of two.
pub(super) fn split_rows(text: &mut Text, rows: &str, passes: &str, rest: &str, unroll: u64) {
    text.inst(&format!("sshri {passes}, {rows}, {}", unroll.ilog2()));
    text.inst(&format!("smuli {rest}, {passes}, -{unroll}"));
    text.inst(&format!("sadd {rest}, {rest}, {rows}"));
}

/// Opens a loop over the rows that no pass covers; returns its end label.
pub(super) fn rest_loop(text: &mut Text, rest: &str) -> String {
    let end = text.fresh("rest");
    text.comment("rows that fill no pass, one by one");
    text.inst(&format!("loop {rest}, {end}"));
    end
}

fn init(text: &mut Text) {
    head(
        text,
        "init",
        "Statistics at their start, and a vector of ones: the divisor of an output that goes on.",
        &["first statistics", "sets of statistics", "vector of ones"],
    );
    constant(text, "v1", MASKED);
    constant(text, "v2", 1.0);
    text.inst("vst.f32 v2, 0(s3)");
    let end = text.fresh("sets");
    text.inst(&format!("loop s2, {end}"));
    text.inst(&format!("vst.f32 v1, {STAT_MX}(s1)"));
    text.inst(&format!("saddi s1, s1, {STAT_BYTES}"));
    text.label(&end);
    text.inst("vret");
}

/// vd = floor(va / by) for integer lanes below 2^16: (x + 0.5) / by is at least 0.5 / by away from any integer, so that the
/// rounded product is on the right side, and subtracting 0.5 makes round-to-nearest a floor.
pub(super) fn divide_lanes(text: &mut Text, vd: &str, va: &str, by: u64) {
    constant(text, "v30", 0.5);
    constant(text, "v31", 1.0 / by as f32);
    text.inst(&format!("vcvt.f32.i32 {vd}, {va}, 0, 0"));
    text.inst(&format!("vadd.f32 {vd}, {vd}, v30"));
    text.inst(&format!("vmul.f32 {vd}, {vd}, v31"));
    text.inst(&format!("vsub.f32 {vd}, {vd}, v30"));
    text.inst(&format!("vcvt.i32.f32 {vd}, {vd}, 0, 0"));
}

fn lanes(text: &mut Text, s: &Shape) {
    head(
        text,
        "lanes",
        "The query of each lane within its set, as integers.",
        &["result"],
    );
    text.inst("viota v1, s0");
    divide_lanes(text, "v2", "v1", s.group);
    divide_lanes(text, "v3", "v2", s.queries);
    text.inst(&format!("sli s2, {}", s.queries));
    text.inst("vbc.i32 v4, s2");
    text.inst("vmul.i32 v3, v3, v4");
    text.inst("vsub.i32 v2, v2, v3");
    text.inst("vst.i32 v2, 0(s1)");
    text.inst("vret");
}

fn mask(text: &mut Text, s: &Shape) {
    head(
        text,
        "mask",
        "Causal mask: a score stays where key <= query, counted from the first query of the set.",
        &[
            "first row of S",
            "rows",
            "key of the first row",
            "lanes",
            "query of each lane",
        ],
    );
    lane_predicate(text, "s4", "p1");
    split_rows(text, "s2", "s6", "s7", PASS);
    text.inst("vld.i32 v28, 0(s5) ?p1");
    constant(text, "v29", MASKED);
    text.inst("sli s9, 8");
    text.inst("vbc.i32 v30, s9");
    text.comment("keys of eight rows");
    for k in 1..=8 {
        text.inst(&format!("vbc.i32 v{}, s3", 8 + k));
        text.inst("saddi s3, s3, 1");
    }
    // A score is stored nine cycles after its load: sixteen registers, v1..v8 and v17..v24.
    let score = |r: usize| if r % 16 < 8 { 1 + r % 8 } else { 17 + r % 8 };
    let rows = Rows {
        interval: 1,
        unroll: PASS as usize,
        pointers: vec![Pointer {
            register: "s1",
            step: s.s_row,
        }],
        steps: vec![
            access(0, 0, move |r, at| {
                format!("vld.f32 v{}, {at}(s1) ?p1", score(r))
            }),
            // Predicates repeat every four rows: this read comes before the compare of the same cycle.
            compute(5, move |r| {
                format!("vsel.f32 v{0}, p{1}, v{0}, v29", score(r), 2 + r % 4)
            }),
            compute(1, |r| {
                format!("vcmp.le.i32 p{}, v{}, v28", 2 + r % 4, 9 + r % 8)
            }),
            compute(2, |r| format!("vadd.i32 v{0}, v{0}, v30", 9 + r % 8)),
            access(9, 0, move |r, at| {
                format!("vst.f32 v{}, {at}(s1) ?p1", score(r))
            }),
        ],
    };
    // One pointer serves the load and the later store: each has its own offset.
    rows.emit(text, "s6", "s8");
    text.inst("sli s9, 1");
    text.inst("vbc.i32 v30, s9");
    let end = rest_loop(text, "s7");
    text.inst("vld.f32 v1, 0(s1) ?p1");
    text.inst("vcmp.le.i32 p2, v9, v28");
    text.inst("vsel.f32 v1, p2, v1, v29");
    text.inst("vst.f32 v1, 0(s1) ?p1");
    text.inst("vadd.i32 v9, v9, v30");
    text.inst(&format!("saddi s1, s1, {}", s.s_row));
    text.label(&end);
    text.inst("vret");
}

/// Steps of the maximum: four accumulators v25..v28, rows in `first`, `first` + 1, ..
fn max_steps(
    first: usize,
    registers: usize,
    pointer: usize,
    name: &'static str,
    p: &'static str,
    cycle: usize,
) -> [Step; 2] {
    [
        access(cycle, pointer, move |r, at| {
            format!("vld.f32 v{}, {at}({name}) ?{p}", first + r % registers)
        }),
        compute(cycle + 5, move |r| {
            format!(
                "vmax.f32 v{0}, v{0}, v{1}",
                25 + r % 4,
                first + r % registers
            )
        }),
    ]
}

fn max_begin(text: &mut Text, stat: &str, predicate: &str) {
    for acc in 25..=28 {
        text.inst(&format!("vld.f32 v{acc}, {STAT_MX}({stat}) ?{predicate}"));
    }
}

fn max_end(text: &mut Text, stat: &str, predicate: &str) {
    text.inst("vmax.f32 v25, v25, v26");
    text.inst("vmax.f32 v27, v27, v28");
    text.inst("vmax.f32 v25, v25, v27");
    text.inst(&format!("vst.f32 v25, {STAT_MX}({stat}) ?{predicate}"));
}

fn max_rows(text: &mut Text, s: &Shape) {
    head(
        text,
        "max_rows",
        "Raw maximum over rows of S^T.",
        &["first row of S", "rows", "statistics", "lanes"],
    );
    lane_predicate(text, "s4", "p1");
    split_rows(text, "s2", "s6", "s7", 8);
    max_begin(text, "s3", "p1");
    let rows = Rows {
        interval: 1,
        unroll: 8,
        pointers: vec![Pointer {
            register: "s1",
            step: s.s_row,
        }],
        steps: max_steps(1, 8, 0, "s1", "p1", 0).into(),
    };
    rows.emit(text, "s6", "s8");
    let end = rest_loop(text, "s7");
    text.inst("vld.f32 v1, 0(s1) ?p1");
    text.inst(&format!("saddi s1, s1, {}", s.s_row));
    text.inst("vmax.f32 v25, v25, v1");
    text.label(&end);
    max_end(text, "s3", "p1");
    text.inst("vret");
}

/// negm = bias - m and the raw maximum back at its start. `m` is in v3.
fn close_maximum(text: &mut Text, s: &Shape) {
    constant(text, "v4", s.bias as f32);
    constant(text, "v5", MASKED);
    text.inst("vsub.f32 v4, v4, v3");
    text.inst(&format!("vst.f32 v3, {STAT_M}(s1) ?p1"));
    text.inst(&format!("vst.f32 v5, {STAT_MX}(s1) ?p1"));
    text.inst(&format!("vst.f32 v4, {STAT_NEGM}(s1) ?p1"));
}

fn begin(text: &mut Text, s: &Shape) {
    head(
        text,
        "begin",
        "First scores of a set of rows: m = max(mx scale, floor), l = 0.",
        &["statistics", "lanes"],
    );
    lane_predicate(text, "s2", "p1");
    text.inst(&format!("vld.f32 v1, {STAT_MX}(s1) ?p1"));
    constant(text, "v2", s.scale);
    constant(text, "v3", FLOOR);
    text.inst("vmul.f32 v1, v1, v2");
    text.inst("vmax.f32 v3, v3, v1");
    text.inst("vxor v6, v6, v6");
    text.inst(&format!("vst.f32 v6, {STAT_L}(s1) ?p1"));
    close_maximum(text, s);
    text.inst("vret");
}

fn begin_sinks(text: &mut Text, s: &Shape) {
    head(
        text,
        "begin_sinks",
        "First scores of a line with sinks z: m = max(mx scale, floor, z log2 e), l = 2^(z log2 e - m + bias).",
        &["statistics", "lanes", "sinks"],
    );
    lane_predicate(text, "s2", "p1");
    text.inst(&format!("vld.f32 v1, {STAT_MX}(s1) ?p1"));
    text.inst("vld.f32 v6, 0(s3) ?p1");
    constant(text, "v2", s.scale);
    constant(text, "v7", std::f32::consts::LOG2_E);
    constant(text, "v3", FLOOR);
    text.inst("vmul.f32 v1, v1, v2");
    text.inst("vmul.f32 v6, v6, v7");
    text.inst("vmax.f32 v3, v3, v1");
    text.inst("vmax.f32 v3, v3, v6");
    close_maximum(text, s);
    text.inst("vadd.f32 v6, v6, v4");
    text.inst("vexp2.f32 v6, v6");
    text.inst(&format!("vst.f32 v6, {STAT_L}(s1) ?p1"));
    text.inst("vret");
}

fn rescale(text: &mut Text, s: &Shape) {
    head(
        text,
        "rescale",
        "Next scores of a set of rows: m' = max(m, mx scale), alpha = 2^(m - m'), l = l alpha.",
        &["statistics", "lanes", "alpha"],
    );
    lane_predicate(text, "s2", "p1");
    text.inst(&format!("vld.f32 v1, {STAT_MX}(s1) ?p1"));
    text.inst(&format!("vld.f32 v6, {STAT_M}(s1) ?p1"));
    text.inst(&format!("vld.f32 v7, {STAT_L}(s1) ?p1"));
    constant(text, "v2", s.scale);
    text.inst("vmul.f32 v1, v1, v2");
    text.inst("vmax.f32 v3, v6, v1");
    text.inst("vsub.f32 v6, v6, v3");
    text.inst("vexp2.f32 v6, v6");
    close_maximum(text, s);
    text.inst("vmul.f32 v7, v7, v6");
    text.inst("vst.f32 v6, 0(s3) ?p1");
    text.inst(&format!("vst.f32 v7, {STAT_L}(s1) ?p1"));
    text.inst("vret");
}

/// Steps of the exponential: S in v1..v4, the exponent and its power in v5..v12, P in v13..v16, sums in v21..v24,
/// negm in v29, scale in v30. Each value is used five cycles after an arithmetic step and nine after a special one: a cycle
/// more than the latency. S is pointer 0, P pointer 1.
fn exp_steps(s: &Shape) -> Vec<Step> {
    let dtype = s.dtype;
    vec![
        access(0, 0, |r, at| {
            format!("vld.f32 v{}, {at}(s1) ?p1", 1 + r % 4)
        }),
        compute(5, |r| {
            format!("vfma.f32 v{}, v{}, v30, v29", 5 + r % 8, 1 + r % 4)
        }),
        compute(10, |r| format!("vexp2.f32 v{0}, v{0}", 5 + r % 8)),
        compute(19, |r| {
            format!("vadd.f32 v{0}, v{0}, v{1}", 21 + r % 4, 5 + r % 8)
        }),
        compute(19, move |r| {
            format!("vcvt.{dtype}.f32 v{}, v{}, 0, 0", 13 + r % 4, 5 + r % 8)
        }),
        access(24, 1, move |r, at| {
            format!("vst.{dtype} v{}, {at}(s5) ?p1", 13 + r % 4)
        }),
    ]
}

fn exp_begin(text: &mut Text, s: &Shape) {
    text.inst(&format!("vld.f32 v29, {STAT_NEGM}(s3) ?p1"));
    constant(text, "v30", s.scale);
}

fn exp_end(text: &mut Text) {
    text.inst(&format!("vld.f32 v31, {STAT_L}(s3) ?p1"));
    text.inst("vadd.f32 v21, v21, v22");
    text.inst("vadd.f32 v23, v23, v24");
    text.inst("vadd.f32 v21, v21, v23");
    text.inst("vadd.f32 v31, v31, v21");
    text.inst(&format!("vst.f32 v31, {STAT_L}(s3) ?p1"));
}

/// Rows of S, pointer 0, and of P, pointer 1, of the exponential.
pub(super) fn exp_pointers(s: &Shape) -> Vec<Pointer> {
    let pointer = |register, step| Pointer { register, step };
    vec![pointer("s1", s.s_row), pointer("s5", s.p_row)]
}

/// So many of the rows that fill no pass go side by side: alone each would await all of its own latencies.
pub(super) const ABREAST: usize = 4;

/// Opens a loop that takes [`ABREAST`] rows of `rest` at once, and leaves there what remains; returns its end label. Overwrites s9
/// and s10.
pub(super) fn rest_abreast(text: &mut Text, rest: &str) -> String {
    text.comment("rows that fill no pass, some side by side");
    text.inst(&format!("sshri s9, {rest}, {}", ABREAST.ilog2()));
    text.inst(&format!("smuli s10, s9, -{ABREAST}"));
    text.inst(&format!("sadd {rest}, {rest}, s10"));
    let end = text.fresh("abreast");
    text.inst(&format!("loop s9, {end}"));
    end
}

/// The exponential of the rows that fill no pass, in the registers of the others.
pub(super) fn exp_rest(text: &mut Text, s: &Shape, rest: &str) {
    let dtype = s.dtype;
    let rows = |text: &mut Text, count: usize| {
        let each = |text: &mut Text, line: &dyn Fn(usize) -> String| {
            (0..count).for_each(|r| text.inst(&line(r)));
        };
        each(text, &|r| {
            format!("vld.f32 v{}, {}(s1) ?p1", 1 + r, r as u64 * s.s_row)
        });
        text.inst(&format!("saddi s1, s1, {}", count as u64 * s.s_row));
        each(text, &|r| {
            format!("vfma.f32 v{}, v{}, v30, v29", 5 + r, 1 + r)
        });
        each(text, &|r| format!("vexp2.f32 v{0}, v{0}", 5 + r));
        each(text, &|r| {
            format!("vadd.f32 v{0}, v{0}, v{1}", 21 + r % 2, 5 + r)
        });
        each(text, &|r| {
            format!("vcvt.{dtype}.f32 v{}, v{}, 0, 0", 13 + r, 5 + r)
        });
        each(text, &|r| {
            format!("vst.{dtype} v{}, {}(s5) ?p1", 13 + r, r as u64 * s.p_row)
        });
        text.inst(&format!("saddi s5, s5, {}", count as u64 * s.p_row));
    };
    let end = rest_abreast(text, rest);
    rows(text, ABREAST);
    text.label(&end);
    let end = rest_loop(text, rest);
    rows(text, 1);
    text.label(&end);
}

fn exp_rows(text: &mut Text, s: &Shape) {
    head(
        text,
        "exp_rows",
        "P = 2^(S scale + negm) in the operand type, l += P before rounding.",
        &[
            "first row of S",
            "rows",
            "statistics",
            "lanes",
            "first row of P",
        ],
    );
    lane_predicate(text, "s4", "p1");
    split_rows(text, "s2", "s6", "s7", PASS);
    exp_begin(text, s);
    let rows = Rows {
        interval: 2,
        unroll: PASS as usize,
        pointers: exp_pointers(s),
        steps: exp_steps(s),
    };
    rows.emit(text, "s6", "s8");
    exp_rest(text, s, "s7");
    exp_end(text);
    text.inst("vret");
}

/// v30 = 1 / max(divisor, tiny), the divisor at s5.
fn reciprocal(text: &mut Text) {
    text.inst("vld.f32 v30, 0(s5) ?p1");
    constant(text, "v29", TINY);
    text.inst("vmax.f32 v30, v30, v29");
    text.inst("vrcp.f32 v30, v30");
}

fn update_first(text: &mut Text, s: &Shape) {
    head(
        text,
        "update_first",
        "First partial product of a set of rows: O^T = PV^T / divisor. In place where s1 = s3.",
        &[
            "PV^T",
            "rows: head_dim",
            "O^T",
            "lanes",
            "divisor of each lane",
        ],
    );
    lane_predicate(text, "s4", "p1");
    reciprocal(text);
    let rows = Rows {
        interval: 1,
        unroll: 16,
        pointers: vec![
            Pointer {
                register: "s1",
                step: s.o_row,
            },
            Pointer {
                register: "s3",
                step: s.o_row,
            },
        ],
        steps: vec![
            access(0, 0, |r, at| {
                format!("vld.f32 v{}, {at}(s1) ?p1", 1 + r % 16)
            }),
            compute(5, |r| format!("vmul.f32 v{0}, v{0}, v30", 1 + r % 16)),
            access(10, 1, |r, at| {
                format!("vst.f32 v{}, {at}(s3) ?p1", 1 + r % 16)
            }),
        ],
    };
    text.inst("sshri s6, s2, 4");
    rows.emit(text, "s6", "s8");
    text.inst("vret");
}

/// Steps of x = x a + y b: x through pointer 0 and back through pointer 2, y through pointer 1; a in v29, b in v30.
fn blend_steps() -> Vec<Step> {
    vec![
        access(0, 0, |r, at| {
            format!("vld.f32 v{}, {at}(s3) ?p1", 1 + r % 4)
        }),
        access(1, 1, |r, at| {
            format!("vld.f32 v{}, {at}(s1) ?p1", 5 + r % 8)
        }),
        compute(5, |r| {
            format!("vmul.f32 v{}, v{}, v29", 13 + r % 8, 1 + r % 4)
        }),
        compute(10, |r| {
            format!("vfma.f32 v{0}, v{1}, v30, v{0}", 13 + r % 8, 5 + r % 8)
        }),
        access(15, 0, |r, at| {
            format!("vst.f32 v{}, {at}(s3) ?p1", 13 + r % 8)
        }),
    ]
}

fn blend(text: &mut Text, s: &Shape) {
    let rows = Rows {
        interval: 2,
        unroll: 8,
        pointers: vec![
            Pointer {
                register: "s3",
                step: s.o_row,
            },
            Pointer {
                register: "s1",
                step: s.o_row,
            },
        ],
        steps: blend_steps(),
    };
    text.inst("sshri s2, s2, 3");
    rows.emit(text, "s2", "s8");
}

fn update(text: &mut Text, s: &Shape) {
    head(
        text,
        "update",
        "Next partial product of a set of rows: O^T = (O^T alpha + PV^T) / divisor.",
        &[
            "PV^T",
            "rows: head_dim",
            "O^T",
            "lanes",
            "divisor of each lane",
            "alpha of each lane",
        ],
    );
    lane_predicate(text, "s4", "p1");
    reciprocal(text);
    text.inst("vld.f32 v29, 0(s6) ?p1");
    text.inst("vmul.f32 v29, v29, v30");
    blend(text, s);
    text.inst("vret");
}

/// Parts of a line that [`join`](emit) takes at once.
pub const JOIN_PARTS: u64 = 4;
/// Rows of O^T that it takes at once.
pub const JOIN_ROWS: u64 = 8;

fn join(text: &mut Text, s: &Shape) {
    head(
        text,
        "join",
        "Joins rows of O^T of all parts of a line: with M = max m_i and w_i = 2^(m_i - M) the rows of part 0 become\n\
         sum w_i O_i / sum w_i l_i. Statistics are m_i and l_i, row by row; four more parts of nothing are written behind them.",
        &[
            "rows of part 0",
            "parts",
            "statistics of part 0",
            "lanes",
            "bytes from part to part",
            "rows / 8",
        ],
    );
    let step = 2 * s.o_row;
    lane_predicate(text, "s4", "p1");
    text.inst(&format!("smuli s7, s2, {step}"));
    text.inst("sadd s7, s7, s3");
    constant(text, "v1", MASKED);
    constant(text, "v2", 0.0);
    for part in 0..JOIN_PARTS {
        text.inst(&format!("vst.f32 v1, {}(s7) ?p1", part * step));
        text.inst(&format!("vst.f32 v2, {}(s7) ?p1", part * step + s.o_row));
    }
    text.inst(&format!("saddi s8, s2, {}", JOIN_PARTS - 1));
    text.inst(&format!("sshri s8, s8, {}", JOIN_PARTS.ilog2()));
    text.comment("M in v29");
    for acc in 25..29 {
        text.inst(&format!("vmov v{acc}, v1"));
    }
    text.inst("sadd s7, s3, s0");
    let end = text.fresh("maxima");
    text.inst(&format!("loop s8, {end}"));
    for part in 0..JOIN_PARTS {
        text.inst(&format!("vld.f32 v{}, {}(s7) ?p1", 1 + part, part * step));
    }
    text.inst(&format!("saddi s7, s7, {}", JOIN_PARTS * step));
    for part in 0..JOIN_PARTS {
        text.inst(&format!("vmax.f32 v{0}, v{0}, v{1}", 25 + part, 1 + part));
    }
    text.label(&end);
    text.inst("vmax.f32 v25, v25, v26");
    text.inst("vmax.f32 v27, v27, v28");
    text.inst("vmax.f32 v29, v25, v27");
    text.comment("weights in the place of m, the sum in v30");
    for acc in 25..29 {
        text.inst(&format!("vxor v{acc}, v{acc}, v{acc}"));
    }
    text.inst("sadd s7, s3, s0");
    let end = text.fresh("weights");
    text.inst(&format!("loop s8, {end}"));
    for part in 0..JOIN_PARTS {
        text.inst(&format!("vld.f32 v{}, {}(s7) ?p1", 1 + part, part * step));
    }
    for part in 0..JOIN_PARTS {
        let at = part * step + s.o_row;
        text.inst(&format!("vld.f32 v{}, {at}(s7) ?p1", 5 + part));
        text.inst(&format!("vsub.f32 v{0}, v{0}, v29", 1 + part));
    }
    for part in 0..JOIN_PARTS {
        text.inst(&format!("vexp2.f32 v{0}, v{0}", 1 + part));
    }
    for part in 0..JOIN_PARTS {
        text.inst(&format!("vst.f32 v{}, {}(s7) ?p1", 1 + part, part * step));
        text.inst(&format!(
            "vfma.f32 v{0}, v{1}, v{2}, v{0}",
            25 + part,
            1 + part,
            5 + part
        ));
    }
    text.inst(&format!("saddi s7, s7, {}", JOIN_PARTS * step));
    text.label(&end);
    text.inst("vadd.f32 v25, v25, v26");
    text.inst("vadd.f32 v27, v27, v28");
    text.inst("vadd.f32 v30, v25, v27");
    constant(text, "v29", TINY);
    text.inst("vmax.f32 v30, v30, v29");
    text.inst("vrcp.f32 v30, v30");
    let rows = text.fresh("rows");
    text.inst(&format!("loop s6, {rows}"));
    for row in 0..JOIN_ROWS {
        text.inst(&format!("vxor v{0}, v{0}, v{0}", 1 + row));
    }
    text.inst("sadd s7, s3, s0");
    text.inst("sadd s9, s1, s0");
    let parts = text.fresh("parts");
    text.inst(&format!("loop s2, {parts}"));
    text.inst("vld.f32 v9, 0(s7) ?p1");
    for row in 0..JOIN_ROWS {
        let at = row * s.o_row;
        text.inst(&format!("vld.f32 v{}, {at}(s9) ?p1", 10 + row));
        if let Some(before) = row.checked_sub(4) {
            text.inst(&format!(
                "vfma.f32 v{0}, v{1}, v9, v{0}",
                1 + before,
                10 + before
            ));
        }
    }
    text.inst(&format!("saddi s7, s7, {step}"));
    text.inst("sadd s9, s9, s5");
    for row in JOIN_ROWS - 4..JOIN_ROWS {
        text.inst(&format!("vfma.f32 v{0}, v{1}, v9, v{0}", 1 + row, 10 + row));
    }
    text.label(&parts);
    for row in 0..JOIN_ROWS {
        text.inst(&format!("vmul.f32 v{0}, v{0}, v30", 1 + row));
    }
    for row in 0..JOIN_ROWS {
        text.inst(&format!("vst.f32 v{}, {}(s1) ?p1", 1 + row, row * s.o_row));
    }
    text.inst(&format!("saddi s1, s1, {}", JOIN_ROWS * s.o_row));
    text.label(&rows);
    text.inst("vret");
}
