//! Attention: O = softmax(Q K^T / sqrt(dim)) V, as one program for all tiles.
//!
//! Models: the choice between two schedules by predicted time, [`decode`] (few queries, memory-bound, keys split over tiles)
//! and [`prefill`] (many queries, bound by the vector processor), and what they share: the kernels' shape, the exponent bias
//! of P, declarations. Both work on transposed scores S^T[key][query row], so that softmax runs down the keys without
//! reductions across lanes. P is rounded to the operand type after a scale of 2^8 in E4M3 (the largest P, 1, becomes 256 of
//! 448; the smallest that survives is 2^-17) and of 1 in BF16; sums take P before rounding, in FP32, with the same scale, which
//! the last divide therefore removes. Rows of V of another length, V inside of K's rows, sinks, windows and pages are [`crate::compiler::Form`]; each
//! schedule's page says which it knows, and [`form`] which attentions of a graph become one. Leaves out: soft caps, masks, lengths.

pub mod decode;
pub mod form;
pub mod kernels;
pub mod prefill;
pub mod schedule;

use super::emit::{Text, TsramLayout};
use super::limits::Needs;
use super::stage::{self, Site, Stage};
use super::{Attention, CompileError, Lowered, Op, Plan};
use crate::chip::Chip;
use crate::num::Dtype;

/// Largest head.
const MAX_HEAD_DIM: u64 = 1024;
/// Descriptors of a kind (blocks, steps) that control code keeps.
const RING: u64 = 16;
/// Descriptors written before they run; at most so many blocks are loaded ahead.
const AHEAD: u64 = 8;
/// Bytes of a descriptor.
const ENTRY: u64 = 128;
/// Bytes of control code's variables in front of the descriptors.
const VARIABLES: u64 = 512;
/// Bytes at the start of a stage's TSRAM that hold control words: variables and at most two rings of descriptors.
pub const CONTROL_BYTES: u64 = (VARIABLES + (2 * RING + 1) * ENTRY).next_multiple_of(256);
/// Strides are immediates of the control code's multiply.
const MAX_STRIDE: u64 = 1 << 30;

/// Lanes of 32 bits that the kernels are written for: the length of rows, statistics and constants in TSRAM.
const LANES: u64 = kernels::VECTOR_BYTES / 4;
/// What both schedules need: a pipelined loop inside the loop that skips it, two waits and two signals of one operation.
const KERNEL_NEEDS: Needs = Needs {
    lanes: LANES,
    loop_depth: 2,
    semaphores: 0,
    counter: 0,
    per_op: 2,
};

/// Why a schedule without a tiling that fits the tile SRAM, or its partial results the HBM, is none.
fn no_room(chip: &Chip) -> String {
    format!(
        "no tiling fits {} bytes of tile SRAM and {} accumulator blocks",
        chip.tsram.size_bytes, chip.ttu.accumulator_blocks
    )
}

/// The DMA channels of a tile's program. Operations wait only for earlier ones of the tile's program, or of another tile's that
/// never waits back, so that streams may share a channel in the order of their pushes.
#[derive(Clone, Copy, Debug)]
struct Channels {
    /// Blocks of K, and partial results.
    k: u64,
    v: u64,
    /// Stores of O.
    out: u64,
    q: u64,
}

impl Channels {
    /// Four channels, or as many as there are.
    fn of(site: &Site) -> Channels {
        Channels {
            k: site.dma(0),
            v: site.dma(1),
            out: site.dma(2),
            q: site.dma(3),
        }
    }
}

/// An operation with the numbers derived from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    /// The operation.
    pub op: Attention,
    /// Bytes of an operand element.
    pub element: u64,
}

impl Geometry {
    /// Derives the numbers of a validated operation.
    pub fn new(op: &Attention) -> Geometry {
        Geometry {
            op: *op,
            element: u64::from(op.dtype.bits()) / 8,
        }
    }

    /// Elements of a row of V and of O.
    pub fn value_dim(&self) -> u64 {
        self.op.value_dim()
    }

    /// First byte of HBM behind the operation's tensors.
    pub fn hbm_end(&self) -> u64 {
        let tensors = Op::Attention(self.op).tensors();
        tensors.iter().fold(0u64, |end, t| {
            (end + t.bytes() as u64).next_multiple_of(256)
        })
    }

    /// Bytes of HBM behind the tensors.
    pub fn hbm_room(&self, chip: &Chip) -> u64 {
        chip.hbm_bytes().saturating_sub(self.hbm_end())
    }

    /// Query heads of a K/V head.
    pub fn group(&self) -> u64 {
        self.op.heads / self.op.kv_heads
    }

    /// Query heads in a set of rows: the group, or its largest divisor up to the 128 lanes of a vector.
    pub fn heads_of_a_set(&self) -> u64 {
        let group = self.group();
        (1..=group.min(LANES))
            .rev()
            .find(|h| group.is_multiple_of(*h))
            .unwrap_or(1)
    }
}

/// A schedule with its sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    Decode(decode::Tiling),
    Prefill(prefill::Tiling),
}

impl Schedule {
    /// Predicted cycles.
    pub fn cycles(&self) -> u64 {
        match self {
            Schedule::Decode(t) => t.cycles,
            Schedule::Prefill(t) => t.cycles,
        }
    }
}

/// The schedules that fit the chip, the faster one by prediction first.
///
/// # Errors
/// A head that is no multiple of 32 up to 1024, extents past the control code's arithmetic, a tile SRAM too small for any plan, no
/// room in HBM for the partial results of a split.
pub fn schedules(op: &Attention, chip: &Chip) -> Result<Vec<Schedule>, CompileError> {
    let whole = Op::Attention(*op);
    let refuse = |reason: String| CompileError::NoPlan {
        op: whole.to_string(),
        chip: chip.name.clone(),
        reason,
    };
    for (name, value) in [("head-dim", op.head_dim), ("value-dim", op.value_dim())] {
        if !value.is_multiple_of(32) || value > MAX_HEAD_DIM {
            return Err(refuse(format!(
                "{name} {value} is no multiple of 32 up to {MAX_HEAD_DIM}"
            )));
        }
    }
    let stride = op.heads.saturating_mul(2 * op.head_dim);
    for (name, value) in [
        ("q-len", op.q_len),
        ("kv-len", op.kv_len),
        ("bytes of a query's heads", stride),
    ] {
        if value > MAX_STRIDE {
            return Err(refuse(format!("{name} is {value}, past {MAX_STRIDE}")));
        }
    }
    let g = Geometry::new(op);
    let decode = decode::plan(&g, chip).map(Schedule::Decode);
    let prefill = prefill::plan(&g, chip).map(Schedule::Prefill);
    let mut found = match (decode, prefill) {
        (Err(d), Err(p)) if d == p => return Err(refuse(d)),
        // The pages of a schedule say what it knows of other forms.
        // Without lanes for its rows decode is no choice: what prefill lacks is the reason.
        (Err(_), Err(p)) if g.group().saturating_mul(op.q_len) > LANES => return Err(refuse(p)),
        (Err(d), Err(p)) => return Err(refuse(format!("decode {d}; prefill {p}"))),
        (d, p) => [d, p].into_iter().flatten().collect::<Vec<_>>(),
    };
    found.sort_by_key(Schedule::cycles);
    Ok(found)
}

/// Compiles attention for a chip, by the schedule that is predicted to be the fastest.
///
/// # Errors
/// As [`schedules`].
pub fn lower(op: &Attention, chip: &Chip) -> Result<Lowered, CompileError> {
    stage::alone(&Op::Attention(*op), chip, |site| self::stage(op, site))
}

/// Attention as a stage, by the schedule that is predicted to be the fastest; its first buffer holds control words, within
/// [`CONTROL_BYTES`].
///
/// # Errors
/// As [`schedules`].
pub fn stage(op: &Attention, site: &Site) -> Result<Stage, CompileError> {
    let found = schedules(op, &planned(site))?;
    stage_as(op, site, &found[0])
}

/// The chip that schedules of a stage are for: less what its end and control words at their place take.
pub fn planned(site: &Site) -> Chip {
    let mut chip = site.planned(1);
    if site.chained {
        chip.tsram.size_bytes = chip.tsram.size_bytes.saturating_sub(CONTROL_BYTES);
    }
    chip
}

/// The empty layout of a stage: control words of all stages share a place.
fn empty(site: &Site) -> TsramLayout {
    let mut layout = TsramLayout::of(site);
    if site.chained {
        layout.reserve(CONTROL_BYTES);
    }
    layout
}

/// Compiles attention by one of the [`schedules`] of the same operation and chip.
///
/// # Errors
/// A schedule of another chip whose buffers do not fit this one.
pub fn lower_as(op: &Attention, chip: &Chip, chosen: &Schedule) -> Result<Lowered, CompileError> {
    stage::alone(&Op::Attention(*op), chip, |site| stage_as(op, site, chosen))
}

/// Attention as a stage by one of the [`schedules`] of the same operation and the site's [`planned`] chip.
///
/// # Errors
/// As [`lower_as`] and [`stage`](fn@stage).
pub fn stage_as(op: &Attention, site: &Site, chosen: &Schedule) -> Result<Stage, CompileError> {
    let whole = Op::Attention(*op);
    let chip = &site.chip;
    let g = Geometry::new(op);
    let bias = if op.dtype == Dtype::E4m3 { 8 } else { 0 };
    let facts = match chosen {
        Schedule::Decode(t) => decode::explain(t, &g, chip),
        Schedule::Prefill(t) => prefill::explain(t, &g, chip),
    };
    let mut plan = Plan {
        op: whole.to_string(),
        facts: Vec::new(),
        split_k: 1,
        split_depth: 0,
        predicted_cycles: chosen.cycles(),
    };
    for (name, value) in facts {
        plan.fact(name, value);
    }
    plan.fact(
        "P",
        format!(
            "{} after a scale of 2^{bias}; sums and maxima in FP32",
            op.dtype
        ),
    );
    let mut text = stage::begin(&whole, site);
    let scale = std::f64::consts::LOG2_E * op.scale();
    let shape = |s_row, p_row, queries| kernels::Shape {
        dtype: op.dtype,
        scale: scale as f32,
        bias,
        s_row,
        p_row,
        o_row: s_row,
        group: match chosen {
            Schedule::Decode(_) => g.group(),
            Schedule::Prefill(t) => t.heads,
        },
        queries,
        sinks: op.form.sinks,
    };
    match chosen {
        Schedule::Decode(t) => {
            decode::emit(&mut text, t, &g, site)?;
            kernels::emit(&mut text, &shape(t.s_row(&g), t.p_row(&g), op.q_len));
        }
        Schedule::Prefill(t) => {
            prefill::emit(&mut text, t, &g, site)?;
            let shape = shape(t.s_row(), t.p_row(&g), t.set_queries);
            prefill::emit_kernels(&mut text, &t.kernels(&g, chip, shape));
        }
    }
    Ok(Stage {
        text: text.finish(),
        plan,
        crosses: match chosen {
            Schedule::Decode(t) => t.parts(&g, chip).is_some(),
            Schedule::Prefill(_) => false,
        },
    })
}

/// Declares buffers as byte tensors; those in `control` hold what control code reads.
fn declare(text: &mut Text, layout: &TsramLayout, control: &[&str]) {
    for (name, offset, bytes) in &layout.buffers {
        let class = if control.contains(&name.as_str()) {
            "control"
        } else {
            "payload"
        };
        text.directive(&format!(
            ".tensor {name}, tsram, u8, [{bytes}], {class}, at {offset:#x}"
        ));
    }
}

/// Names of consecutive 64-bit words from `first` on.
fn equ(text: &mut Text, words: &[(&str, &str)], first: u64) {
    for (index, (name, comment)) in words.iter().enumerate() {
        text.equ(name, first + 8 * index as u64, comment);
    }
}

/// Moves a pointer to the next slot of a ring, given the slot's bytes and the ring's tensor.
fn bump(text: &mut Text, register: &str, spare: &str, slot: &str, ring: &str) {
    let stay = text.fresh("in_ring");
    text.block(&format!(
        "li {spare}, {slot}
        add {register}, {register}, {spare}
        li {spare}, addr({ring}) + size({ring})
        bne {register}, {spare}, {stay}
        li {register}, addr({ring})
        {stay}:"
    ));
}
