//! The vector kernels of prefill. Lanes are query rows, vectors run over keys or over the elements of a head.
//!
//! Models: online softmax of S^T[key][row] with no reduction across lanes. The load port is as scarce as the exponential, so the
//! tensor unit stores S^T twice: in FP32 for the exponential, and in BF16, two rows to a vector, for the maximum alone; what
//! that leaves of the port scales O^T while exponentials go on. A maximum of rounded scores is made an upper bound by adding
//! 2^-8 of its size, so no P passes the largest. Per set of rows a block of statistics stays in TSRAM ([`STAT_BYTES`]): the
//! bias of P less the running maximum, two partial sums of P, and two partial maxima of the scores to come.
//! Leaves out: when kernels run and where operands lie (the schedule). Invariants: lanes past the given number are neither
//! stored nor reach another lane; no kernel makes a NaN from finite scores, because maxima start at [`FLOOR`], not at minus
//! infinity, and masked scores are [`MASKED`].

use super::super::kernels::{
    ABREAST, FLOOR, MASKED, PASS, Shape, TINY, VECTOR_BYTES, constant, divide_lanes, exp_pointers,
    exp_rest, head, lane_predicate, rest_abreast, rest_loop, split_rows,
};
use super::super::schedule::{Beside, Pointer, Rows, Step, access, compute};
use crate::compiler::emit::Text;

/// Offset of bias - maximum, the maximum in units of log2.
const STAT_NEGM: u64 = 0;
/// Offset of two partial sums.
const STAT_L: u64 = VECTOR_BYTES;
/// Offset of two partial maxima of the scores to come, BF16.
const STAT_MX: u64 = 3 * VECTOR_BYTES;
/// Bytes of the statistics of a set of rows.
pub const STAT_BYTES: u64 = 5 * VECTOR_BYTES;
/// Bytes from row to row of the rounded scores: one of 128 lanes.
pub const M_ROW: u64 = VECTOR_BYTES / 2;
/// Cycles until a result may be used: of a load or an arithmetic instruction, of a special one, which takes its slot twice.
const ARITHMETIC: usize = 4;
const SPECIAL: usize = 9;

/// What the kernels are generated for.
#[derive(Clone, Copy, Debug)]
pub struct Prefill {
    /// Type, scale, strides and lanes.
    pub shape: Shape,
    /// Elements of a head of V and O.
    pub value_dim: u64,
    /// Rows of rounded scores that a vector takes: two, or one where the chip's vectors are shorter.
    pub pair: u64,
    /// A vector of rounded scores is a whole register.
    pub whole: bool,
    /// Bytes of the ring of rounded scores.
    pub m_bytes: u64,
    /// A causal mask; the window, if the mask has one.
    pub mask: Option<Option<u64>>,
    /// Query heads, if each has a sink.
    pub sinks: Option<u64>,
}

/// Emits all kernels.
pub fn emit(text: &mut Text, k: &Prefill) {
    init(text, k);
    if let Some(window) = k.mask {
        mask_table(text, k, window);
    }
    if let Some(heads) = k.sinks {
        spread_sinks(text, k, heads);
    }
    max_rows(text, k);
    begin(text, k);
    rescale(text, k);
    inverse(text);
    exp_rows(text, k);
    fused(text, k, false);
    fused(text, k, true);
    scale(text, k);
    nothing(text);
}

fn nothing(text: &mut Text) {
    head(
        text,
        "nothing",
        "Carries a signal that an operation has no room for.",
        &[],
    );
    text.inst("vret");
}

fn init(text: &mut Text, k: &Prefill) {
    head(
        text,
        "init",
        "Statistics at their start, and zeros where lanes that no query has will be read.",
        &["first statistics", "sets of statistics", "rounded scores"],
    );
    constant(text, "v1", 0.0);
    text.inst(&format!("sli s15, float({MASKED:e})"));
    text.inst("vbc.f32 v2, s15");
    max_predicate(text, k);
    round(text, k, "v3", "v2");
    let end = text.fresh("sets");
    text.inst(&format!("loop s2, {end}"));
    for (offset, v) in [
        (STAT_NEGM, 1),
        (STAT_L, 1),
        (STAT_L + VECTOR_BYTES, 1),
        (STAT_MX, 3),
        (STAT_MX + VECTOR_BYTES, 3),
    ] {
        text.inst(&match v {
            3 => format!("vst.bf16 v3, {offset}(s1){}", max_lanes(k)),
            _ => format!("vst.f32 v{v}, {offset}(s1)"),
        });
    }
    text.inst(&format!("saddi s1, s1, {STAT_BYTES}"));
    text.label(&end);
    let end = text.fresh("zeros");
    text.inst(&format!("sli s4, {}", k.m_bytes / VECTOR_BYTES));
    text.inst(&format!("loop s4, {end}"));
    text.inst("vst.f32 v1, 0(s3)");
    text.inst(&format!("saddi s3, s3, {VECTOR_BYTES}"));
    text.label(&end);
    text.inst("vret");
}

fn mask_table(text: &mut Text, k: &Prefill, window: Option<u64>) {
    let s = &k.shape;
    head(
        text,
        "mask_table",
        "Causal mask, as what a product of scores starts from: 0 where query - window < key <= query, counted from the first\n\
         query of a set.",
        &["rows", "rows / 16", "key of the first row"],
    );
    text.inst("viota v1, s0");
    divide_lanes(text, "v2", "v1", s.group);
    divide_lanes(text, "v3", "v2", s.queries);
    text.inst(&format!("sli s5, {}", s.queries));
    text.inst("vbc.i32 v4, s5");
    text.inst("vmul.i32 v3, v3, v4");
    text.inst("vsub.i32 v28, v2, v3");
    if let Some(window) = window {
        text.inst(&format!("sli s5, {window}"));
        text.inst("vbc.i32 v4, s5");
        text.inst("vsub.i32 v27, v28, v4");
    }
    text.inst("vxor v31, v31, v31");
    constant(text, "v29", MASKED);
    text.inst("sli s9, 8");
    text.inst("vbc.i32 v30, s9");
    text.comment("keys of eight rows");
    for k in 0..8 {
        text.inst(&format!("vbc.i32 v{}, s3", 9 + k));
        text.inst("saddi s3, s3, 1");
    }
    text.inst(&format!("sli s4, {}", s.s_row / 4));
    lane_predicate(text, "s4", "p1");
    // A row's compares, selection and store; the compare with the lower edge needs a cycle more for each row.
    let interval = if window.is_some() { 2 } else { 1 };
    let chosen = interval * ARITHMETIC;
    let mut steps = vec![
        // Predicates repeat every four rows: this read comes before the compare of the same cycle.
        compute(chosen, |r| {
            format!("vsel.f32 v{}, p{}, v31, v29", 1 + r % 8, 2 + r % 4)
        }),
        compute(0, |r| {
            format!("vcmp.le.i32 p{}, v{}, v28", 2 + r % 4, 9 + r % 8)
        }),
    ];
    if window.is_some() {
        steps.push(compute(ARITHMETIC, |r| {
            format!("vcmp.gt.i32 p{0}, v{1}, v27 ?p{0}", 2 + r % 4, 9 + r % 8)
        }));
    }
    steps.extend([
        compute(if window.is_some() { ARITHMETIC } else { 1 }, |r| {
            format!("vadd.i32 v{0}, v{0}, v30", 9 + r % 8)
        }),
        access(chosen + ARITHMETIC, 0, |r, at| {
            format!("vst.f32 v{}, {at}(s1) ?p1", 1 + r % 8)
        }),
    ]);
    let table = Rows {
        interval,
        unroll: PASS as usize,
        pointers: vec![Pointer {
            register: "s1",
            step: s.s_row,
        }],
        steps,
    };
    table.emit(text, "s2", "s8");
    text.inst("vret");
}

fn spread_sinks(text: &mut Text, k: &Prefill, heads: u64) {
    let group = k.shape.group;
    head(
        text,
        "spread_sinks",
        "A vector for each set of query heads: each lane its head's sink, in units of log2.",
        &["sinks", "vectors"],
    );
    text.inst("viota v1, s0");
    divide_lanes(text, "v2", "v1", group);
    text.inst(&format!("sli s5, {group}"));
    text.inst("vbc.i32 v4, s5");
    text.inst("vmul.i32 v2, v2, v4");
    text.inst("vsub.i32 v2, v1, v2");
    constant(text, "v5", std::f32::consts::LOG2_E);
    text.inst("sli s6, 1");
    text.inst("vbc.i32 v6, s6");
    text.inst(&format!("sli s7, {}", heads / group));
    let (sets, each) = (text.fresh("sets"), text.fresh("heads"));
    text.inst(&format!("loop s7, {sets}"));
    text.inst("vxor v3, v3, v3");
    text.inst("vxor v7, v7, v7");
    text.inst(&format!("loop s5, {each}"));
    text.inst("vldb.f32 v8, 0(s1)");
    text.inst("saddi s1, s1, 4");
    text.inst("vcmp.eq.i32 p2, v2, v3");
    text.inst("vadd.i32 v3, v3, v6");
    text.inst("vmul.f32 v8, v8, v5");
    text.inst("vsel.f32 v7, p2, v8, v7");
    text.label(&each);
    text.inst("vst.f32 v7, 0(s2)");
    text.inst(&format!("saddi s2, s2, {VECTOR_BYTES}"));
    text.label(&sets);
    text.inst("vret");
}

/// p3 = the lanes of a vector of rounded scores, where it is not a whole register.
fn max_predicate(text: &mut Text, k: &Prefill) {
    if !k.whole {
        text.inst(&format!("sli s14, {}", M_ROW / 2 * k.pair));
        text.inst("vwhile.bf16 p3, s14");
    }
}

/// What an instruction on rounded scores ends with.
fn max_lanes(k: &Prefill) -> &'static str {
    if k.whole { "" } else { " ?p3" }
}

/// vd = va in BF16, in the lanes of a vector of rounded scores.
fn round(text: &mut Text, k: &Prefill, vd: &str, va: &str) {
    for group in 0..k.pair {
        text.inst(&format!("vcvt.bf16.f32 {vd}, {va}, {group}, 0"));
    }
}

/// Steps of the maximum: accumulators v25 and v26, scores in v17, v18, v23, v24.
fn max_steps(k: &Prefill, pointer: usize, name: &'static str, cycle: usize) -> [Step; 2] {
    let (pair, lanes) = (k.pair as usize, max_lanes(k));
    let score = move |r: usize| [17, 18, 23, 24][r / pair % 4];
    [
        compute(cycle + ARITHMETIC, move |r| {
            if !r.is_multiple_of(pair) {
                return String::new();
            }
            let acc = 25 + r / pair % 2;
            format!("vmax.bf16 v{acc}, v{acc}, v{}{lanes}", score(r))
        }),
        access(cycle, pointer, move |r, at| {
            if !r.is_multiple_of(pair) {
                return String::new();
            }
            format!("vld.bf16 v{}, {at}({name}){lanes}", score(r))
        }),
    ]
}

/// Loads or stores the two partial maxima.
fn max_ends(text: &mut Text, k: &Prefill, stat: &str, inst: &str) {
    for (acc, offset) in [(25, STAT_MX), (26, STAT_MX + VECTOR_BYTES)] {
        text.inst(&format!(
            "{inst}.bf16 v{acc}, {offset}({stat}){}",
            max_lanes(k)
        ));
    }
}

fn max_rows(text: &mut Text, k: &Prefill) {
    head(
        text,
        "max_rows",
        "Maximum over rows of rounded scores.",
        &["first row", "rows", "statistics"],
    );
    max_predicate(text, k);
    max_ends(text, k, "s3", "vld");
    split_rows(text, "s2", "s6", "s7", 8 * k.pair);
    text.comment("four accumulators, so that none is used before it is there");
    text.inst("vmov v27, v25");
    text.inst("vmov v28, v26");
    let lanes = max_lanes(k);
    let rows = Rows {
        interval: 1,
        unroll: 8,
        pointers: vec![Pointer {
            register: "s1",
            step: M_ROW * k.pair,
        }],
        steps: vec![
            compute(ARITHMETIC, move |r| {
                let acc = 25 + r % 4;
                format!("vmax.bf16 v{acc}, v{acc}, v{}{lanes}", 1 + r % 8)
            }),
            access(0, 0, move |r, at| {
                format!("vld.bf16 v{}, {at}(s1){lanes}", 1 + r % 8)
            }),
        ],
    };
    rows.emit(text, "s6", "s8");
    text.inst(&format!("sli s14, {}", M_ROW / 2));
    text.inst("vwhile.bf16 p4, s14");
    let end = rest_abreast(text, "s7");
    for r in 0..ABREAST {
        text.inst(&format!(
            "vld.bf16 v{}, {}(s1) ?p4",
            17 + r,
            r as u64 * M_ROW
        ));
    }
    text.inst(&format!("saddi s1, s1, {}", ABREAST as u64 * M_ROW));
    for r in 0..ABREAST {
        text.inst(&format!("vmax.bf16 v{0}, v{0}, v{1} ?p4", 25 + r, 17 + r));
    }
    text.label(&end);
    let end = rest_loop(text, "s7");
    text.inst("vld.bf16 v17, 0(s1) ?p4");
    text.inst(&format!("saddi s1, s1, {M_ROW}"));
    text.inst("vmax.bf16 v25, v25, v17 ?p4");
    text.label(&end);
    text.inst("vmax.bf16 v25, v25, v27");
    text.inst("vmax.bf16 v26, v26, v28");
    max_ends(text, k, "s3", "vst");
    text.inst("vret");
}

/// v3 = bias - an upper bound of the scores' maximum in units of log2: the lesser of those of the maximum with 2^-8 of it added
/// and taken away. Partial maxima go back to their start. `beside`: loads of others, v20 and v21 the sums whose inverse
/// it makes beside in v20. In order of the
/// cycles in which an instruction can issue: nothing waits for what it does not need.
fn take_maximum(text: &mut Text, k: &Prefill, beside: &[String]) {
    let scale = f64::from(k.shape.scale);
    max_predicate(text, k);
    max_ends(text, k, "s1", "vld");
    constant(text, "v11", (-scale * (1.0 + 1.0 / 256.0)) as f32);
    constant(text, "v12", (-scale * (1.0 - 1.0 / 256.0)) as f32);
    for line in beside {
        text.inst(line);
    }
    text.inst("vmax.bf16 v25, v25, v26");
    constant(text, "v13", k.shape.bias as f32);
    constant(text, "v22", TINY);
    constant(text, "v9", MASKED);
    text.inst("vcvt.f32.bf16 v3, v25, 0, 0");
    if k.pair == 2 {
        text.inst("vcvt.f32.bf16 v4, v25, 0, 1");
    }
    text.inst("vadd.f32 v20, v20, v21");
    if k.pair == 2 {
        text.inst("vmax.f32 v3, v3, v4");
    }
    round(text, k, "v10", "v9");
    text.inst("vmax.f32 v20, v20, v22");
    text.inst("vfma.f32 v4, v3, v12, v13");
    text.inst("vfma.f32 v3, v3, v11, v13");
    text.inst("vrcp.f32 v20, v20");
    for offset in [STAT_MX, STAT_MX + VECTOR_BYTES] {
        text.inst(&format!("vst.bf16 v10, {offset}(s1){}", max_lanes(k)));
    }
    text.inst("vmin.f32 v3, v3, v4");
}

/// The loads that 1 / sum of the statistics at s2 takes.
fn sums_before() -> [String; 2] {
    [
        format!("vld.f32 v20, {STAT_L}(s2)"),
        format!("vld.f32 v21, {}(s2)", STAT_L + VECTOR_BYTES),
    ]
}

fn begin(text: &mut Text, k: &Prefill) {
    head(
        text,
        "begin",
        "First scores of a set of rows: m = max(mx scale, floor), l = 0. Beside it 1 / l of the set before.",
        &[
            "statistics",
            "statistics of the set before",
            "its 1 / l",
            "sinks of the lanes: they are in m and l from the start",
        ],
    );
    let mut beside = sums_before().to_vec();
    if k.sinks.is_some() {
        beside.push("vld.f32 v14, 0(s4)".to_owned());
    }
    beside.push("vxor v6, v6, v6".to_owned());
    take_maximum(text, k, &beside);
    constant(text, "v7", -FLOOR);
    if k.sinks.is_none() {
        text.inst(&format!("vst.f32 v6, {STAT_L}(s1)"));
    } else {
        text.inst("vsub.f32 v15, v13, v14");
    }
    text.inst(&format!("vst.f32 v6, {}(s1)", STAT_L + VECTOR_BYTES));
    text.inst("vmin.f32 v3, v3, v7");
    if k.sinks.is_some() {
        text.inst("vmin.f32 v3, v3, v15");
        text.inst("vadd.f32 v14, v14, v3");
        text.inst("vexp2.f32 v14, v14");
        text.inst(&format!("vst.f32 v14, {STAT_L}(s1)"));
    }
    text.inst("vst.f32 v20, 0(s3)");
    text.inst(&format!("vst.f32 v3, {STAT_NEGM}(s1)"));
    text.inst("vret");
}

fn rescale(text: &mut Text, k: &Prefill) {
    head(
        text,
        "rescale",
        "Next scores of a set of rows: m' = max(m, mx scale), alpha = 2^(m - m'), l = l alpha. Beside it 1 / l of the set before.",
        &[
            "statistics",
            "statistics of the set before",
            "its 1 / l",
            "alpha",
        ],
    );
    let mut beside = vec![format!("vld.f32 v6, {STAT_NEGM}(s1)")];
    beside.extend(sums_before());
    beside.push(format!("vld.f32 v7, {STAT_L}(s1)"));
    beside.push(format!("vld.f32 v8, {}(s1)", STAT_L + VECTOR_BYTES));
    take_maximum(text, k, &beside);
    text.inst("vmin.f32 v3, v6, v3");
    text.inst("vsub.f32 v6, v3, v6");
    text.inst(&format!("vst.f32 v3, {STAT_NEGM}(s1)"));
    text.inst("vst.f32 v20, 0(s3)");
    text.inst("vexp2.f32 v6, v6");
    text.inst("vmul.f32 v7, v7, v6");
    text.inst("vmul.f32 v8, v8, v6");
    text.inst("vst.f32 v6, 0(s4)");
    text.inst(&format!("vst.f32 v7, {STAT_L}(s1)"));
    text.inst(&format!("vst.f32 v8, {}(s1)", STAT_L + VECTOR_BYTES));
    text.inst("vret");
}

fn inverse(text: &mut Text) {
    head(
        text,
        "inverse",
        "1 / l of the last set.",
        &["", "statistics", "1 / l"],
    );
    for line in sums_before() {
        text.inst(&line);
    }
    constant(text, "v22", TINY);
    text.inst("vadd.f32 v20, v20, v21");
    text.inst("vmax.f32 v20, v20, v22");
    text.inst("vrcp.f32 v20, v20");
    text.inst("vst.f32 v20, 0(s3)");
    text.inst("vret");
}

/// Steps of the exponential: S in v1..v4, the exponent and its power in v5..v12, P in v13..v16, sums in v21 and v22, negm in
/// v29, scale in v30. S is pointer 0, P pointer 1.
fn exp_steps(k: &Prefill) -> Vec<Step> {
    let dtype = k.shape.dtype;
    let power = 2 * ARITHMETIC;
    let done = power + SPECIAL;
    vec![
        access(0, 0, |r, at| {
            format!("vld.f32 v{}, {at}(s1) ?p1", 1 + r % 4)
        }),
        compute(ARITHMETIC, |r| {
            format!("vfma.f32 v{}, v{}, v30, v29", 5 + r % 8, 1 + r % 4)
        }),
        compute(power, |r| format!("vexp2.f32 v{0}, v{0}", 5 + r % 8)),
        compute(done, |r| {
            format!("vadd.f32 v{0}, v{0}, v{1}", 21 + r % 2, 5 + r % 8)
        }),
        compute(done, move |r| {
            format!("vcvt.{dtype}.f32 v{}, v{}, 0, 0", 13 + r % 4, 5 + r % 8)
        }),
        access(done + ARITHMETIC, 1, move |r, at| {
            format!("vst.{dtype} v{}, {at}(s5) ?p1", 13 + r % 4)
        }),
    ]
}

fn exp_begin(text: &mut Text, k: &Prefill) {
    lane_predicate(text, "s4", "p1");
    text.inst(&format!("vld.f32 v29, {STAT_NEGM}(s3)"));
    text.inst(&format!("sli s15, float({:e})", k.shape.scale));
    text.inst(&format!("vld.f32 v21, {STAT_L}(s3)"));
    text.inst("vbc.f32 v30, s15");
    text.inst(&format!("vld.f32 v22, {}(s3)", STAT_L + VECTOR_BYTES));
}

fn exp_end(text: &mut Text) {
    text.inst(&format!("vst.f32 v21, {STAT_L}(s3)"));
    text.inst(&format!("vst.f32 v22, {}(s3)", STAT_L + VECTOR_BYTES));
}

fn exp_rows(text: &mut Text, k: &Prefill) {
    let s = &k.shape;
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
    exp_begin(text, k);
    split_rows(text, "s2", "s6", "s7", PASS);
    let rows = Rows {
        interval: 2,
        unroll: PASS as usize,
        pointers: exp_pointers(&k.shape),
        steps: exp_steps(k),
    };
    rows.emit(text, "s6", "s8");
    exp_rest(text, s, "s7");
    exp_end(text);
    text.inst("vret");
}

/// Steps of O = O factor, a row to two of S: O in v19, v20, v27, v31, the factor in v28.
fn scale_steps(pointer: usize, name: &'static str, predicate: &'static str) -> [Step; 3] {
    let row = |r: usize| [19, 20, 27, 31][r / 2 % 4];
    let even = |r: usize, text: String| {
        if r.is_multiple_of(2) {
            text
        } else {
            String::new()
        }
    };
    [
        // A cycle later than it could: P is stored in this one.
        access(4 + 2 * ARITHMETIC, pointer, move |r, at| {
            even(r, format!("vst.f32 v{}, {at}({name}) ?{predicate}", row(r)))
        }),
        compute(3 + ARITHMETIC, move |r| {
            even(r, format!("vmul.f32 v{0}, v{0}, v28", row(r)))
        }),
        access(3, pointer, move |r, at| {
            even(r, format!("vld.f32 v{}, {at}({name}) ?{predicate}", row(r)))
        }),
    ]
}

fn fused(text: &mut Text, k: &Prefill, scaling: bool) {
    let s = &k.shape;
    let (name, doc) = match scaling {
        false => (
            "fused",
            "The exponential over one step's scores and the maximum over the next step's: in four cycles two rows of each.",
        ),
        true => (
            "fused_scale",
            "The same, and rows of O^T times a factor, one in four cycles.",
        ),
    };
    let mut args = vec![
        "first row of S",
        "rows / 16",
        "statistics",
        "lanes",
        "first row of P",
        "first row of the next rounded scores",
        "their statistics",
    ];
    if scaling {
        args.extend(["O^T", "factor of each lane", "lanes of O^T"]);
    }
    head(text, name, doc, &args);
    lane_predicate(text, "s4", "p1");
    max_predicate(text, k);
    if scaling {
        lane_predicate(text, "s10", "p2");
    }
    // What the first rows need, until the predicate is there.
    text.inst(&format!("vld.f32 v29, {STAT_NEGM}(s3)"));
    text.inst(&format!("sli s15, float({:e})", s.scale));
    text.inst("vbc.f32 v30, s15");
    max_ends(text, k, "s7", "vld");
    if scaling {
        text.inst("vld.f32 v28, 0(s9)");
    }
    // Sums are needed when the first powers are there. No load of the loop is in these cycles but of O.
    let sums = |inst: &str| {
        [(21, STAT_L), (22, STAT_L + VECTOR_BYTES)]
            .map(|(v, offset)| format!("{inst}.f32 v{v}, {offset}(s3)"))
    };
    let [first, second] = sums("vld");
    let mut beside = Beside {
        fill: vec![(3, first), (7, second)],
        drain: Vec::new(),
    };
    // The maxima are there long before the last P, the stores of which leave every other cycle free.
    for (cycle, acc, offset) in [(10, 25, STAT_MX), (12, 26, STAT_MX + VECTOR_BYTES)] {
        let line = format!("vst.bf16 v{acc}, {offset}(s7){}", max_lanes(k));
        beside.drain.push((cycle, line));
    }
    let last = 2 * (PASS as usize) - 1;
    beside.drain.extend(sums("vst").map(|line| (last, line)));
    let mut steps = exp_steps(k);
    steps.extend(max_steps(k, 2, "s6", 1));
    let lasting = steps.len();
    let mut pointers = exp_pointers(&k.shape);
    pointers.push(Pointer {
        register: "s6",
        step: M_ROW,
    });
    if scaling {
        steps.extend(scale_steps(3, "s8", "p2"));
        pointers.push(Pointer {
            register: "s8",
            step: s.o_row / 2,
        });
    }
    let rows = Rows {
        interval: 2,
        unroll: PASS as usize,
        pointers,
        steps,
    };
    let early = scaling.then_some((lasting, 2 * k.value_dim / PASS));
    rows.emit_beside(text, early, ["s2", "s12"], &beside);
    text.inst("vret");
}

fn scale(text: &mut Text, k: &Prefill) {
    let s = &k.shape;
    head(
        text,
        "scale",
        "O^T = O^T factor.",
        &["O^T", "factor of each lane", "lanes"],
    );
    lane_predicate(text, "s3", "p1");
    text.inst("vld.f32 v30, 0(s2)");
    let rows = Rows {
        interval: 1,
        unroll: 16,
        pointers: vec![Pointer {
            register: "s1",
            step: s.o_row,
        }],
        steps: vec![
            access(2 * ARITHMETIC, 0, |r, at| {
                format!("vst.f32 v{}, {at}(s1) ?p1", 1 + r % 16)
            }),
            compute(ARITHMETIC, |r| {
                format!("vmul.f32 v{0}, v{0}, v30", 1 + r % 16)
            }),
            access(0, 0, |r, at| {
                format!("vld.f32 v{}, {at}(s1) ?p1", 1 + r % 16)
            }),
        ],
    };
    text.inst(&format!("sli s6, {}", k.value_dim / 16));
    rows.emit(text, "s6", "s8");
    text.inst("vret");
}
