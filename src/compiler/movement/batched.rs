//! Many small matrix products: heads of an attention that is not fused, batch products of ONNX.
//!
//! Models: C[b] = A[b] B[b] over any number of batch axes, each operand with a stride of its own along each (0: shared), rows with strides
//! too, so that heads need no transposition first. An item of work is a block of one C that fits the accumulators; its operands stream
//! through a ring in chunks along K, its result leaves through two buffers. Leaves out: sharing of operands between tiles, splits of K:
//! large products are `matmul`'s. Invariant: K is summed in one chain in ascending order, in chunks of whole accumulation blocks, so the
//! result is that of one `mm` over all of K.

use super::ring::Ring;
use super::{ALIGN, CompileError, Frame, hbm_cycles, plan};
use crate::chip::{Chip, cost};
use crate::compiler::emit::Text;
use crate::compiler::graph::View;
use crate::compiler::graph::op::broadcast;
use crate::compiler::limits::Needs;
use crate::compiler::stage::{Site, Stage};
use crate::num::Dtype;

/// Rows and columns of an accumulator block.
const BLOCK: u64 = 32;
/// Elements along K in which sums are rounded; chunks are multiples.
const KBLOCK: u64 = 32;
/// Buffers of the result.
const RESULTS: u64 = 2;
/// Bytes of a request.
const REQUEST: u64 = 256;
/// Accumulator blocks of a product that is not made smaller for the sake of longer rows.
const LEAST: u64 = 8;
/// Rows in SRAM begin at words of a bank.
const WORD: u64 = 64;

/// A batch axis: how many, and elements between neighbours in A, B and C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    pub count: u64,
    pub a: u64,
    pub b: u64,
    pub c: u64,
}

/// C[b] = A[b] B[b]. Tensors of its site: A, B, C.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batched {
    /// Element types of A, B and C: two of BF16 or two of FP8, to BF16 or F32.
    pub dtypes: [Dtype; 3],
    pub m: u64,
    pub n: u64,
    pub k: u64,
    /// B is stored [n, k].
    pub turned: bool,
    /// Elements between rows of A, B and C as they are stored.
    pub rows: [u64; 3],
    /// Outermost first.
    pub batches: Vec<Axis>,
}

impl Batched {
    /// Contiguous matrices A [batch, m, k], B [batch, k, n] (or [batch, n, k]) and C [batch, m, n].
    pub fn contiguous(dtypes: [Dtype; 3], [batch, m, n, k]: [u64; 4], turned: bool) -> Batched {
        let axis = Axis {
            count: batch,
            a: m.saturating_mul(k),
            b: k.saturating_mul(n),
            c: m.saturating_mul(n),
        };
        Batched {
            dtypes,
            m,
            n,
            k,
            turned,
            rows: [k, if turned { k } else { n }, n],
            batches: vec![axis],
        }
    }

    /// [`crate::compiler::graph::Op::Matmul`]: contiguous A [.., m, k] and B [.., k, n], the axes in front broadcast as NumPy does.
    ///
    /// `None` unless the shapes go together.
    pub fn broadcast(dtypes: [Dtype; 3], a: &[u64], b: &[u64]) -> Option<Batched> {
        let ([front_a @ .., m, k], [front_b @ .., depth, n]) = (a, b) else {
            return None;
        };
        let to = broadcast(front_a, front_b)?;
        // Matrices between neighbours, 0 where an operand has one for all.
        let steps = |front: &[u64]| View::expand(front, &to).map(|view| view.strides);
        let (of_a, of_b, of_c) = (steps(front_a)?, steps(front_b)?, steps(&to)?);
        let mut op = Batched::contiguous(dtypes, [1, *m, *n, *k], false);
        let whole = op.batches.pop().filter(|_| depth == k)?;
        let far = |step: i64, size: u64| step.unsigned_abs().saturating_mul(size);
        for (i, count) in to.iter().enumerate().filter(|(_, count)| **count != 1) {
            let axis = Axis {
                count: *count,
                a: far(of_a[i], whole.a),
                b: far(of_b[i], whole.b),
                c: far(of_c[i], whole.c),
            };
            // One axis with the one before it, if it goes on where that ends: piece numbers then need fewer divisions.
            let joins = |outer: u64, inner: u64| outer == inner.saturating_mul(*count);
            match op.batches.last_mut() {
                Some(o) if joins(o.a, axis.a) && joins(o.b, axis.b) && joins(o.c, axis.c) => {
                    *o = Axis {
                        count: o.count.saturating_mul(*count),
                        ..axis
                    };
                }
                _ => op.batches.push(axis),
            }
        }
        Some(op)
    }

    /// Products in all.
    fn count(&self) -> u128 {
        let counts = self.batches.iter().map(|a| u128::from(a.count));
        counts.fold(1, u128::saturating_mul)
    }

    /// Stored rows and row length of A, B and C.
    fn stored(&self) -> [(u64, u64); 3] {
        let (m, n, k) = (self.m, self.n, self.k);
        [(m, k), if self.turned { (n, k) } else { (k, n) }, (m, n)]
    }
}

impl std::fmt::Display for Batched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c] = self.dtypes;
        write!(
            f,
            "batched {a} x {b} -> {c}, {} of m={} n={} k={}",
            self.count(),
            self.m,
            self.n,
            self.k
        )
    }
}

/// Sizes of the schedule.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// Block of C, and how many there are along m and n.
    tm: u64,
    tn: u64,
    mb: u64,
    nb: u64,
    /// Chunk of K.
    kc: u64,
    /// Bytes between rows in SRAM of A, B and C.
    pitch: [u64; 3],
    /// Bytes of A's chunk, behind which B's lies, of both, and of a result.
    a_bytes: u64,
    slot: u64,
    result: u64,
}

/// Lowers batched products. Tensors: `A`, `B`, `C`, as bytes.
///
/// # Errors
/// Element types that the tensor unit does not take, extents or strides out of range, a site without room.
pub fn batched(op: &Batched, site: &Site) -> Result<Stage, CompileError> {
    let mut frame = Frame::new(op.to_string(), site, 3)?;
    let ends = check(op, &frame)?;
    for (i, name) in ["A", "B", "C"].into_iter().enumerate() {
        frame.tensor(name, i, Dtype::U8, &[ends[i]], "payload");
    }
    let sizes = sizes(op, &frame)?;
    frame.buffer("results", RESULTS * sizes.result)?;
    let ring = Ring::new(&frame, sizes.slot)?;
    frame.needs(Needs {
        semaphores: ring.semaphores() + 2 * RESULTS,
        counter: 2,
        per_op: 1,
        ..Needs::default()
    })?;
    let count = op.count() as u64;
    let items = count * sizes.mb * sizes.nb;
    let (a, b) = (op.dtypes[0], op.dtypes[1]);
    let tensor = (items * cost::mm_steps(&site.chip, a, b, sizes.tm, sizes.tn, op.k))
        .div_ceil(frame.tiles());
    let bytes: u64 = ends.iter().sum();
    let mut plan = plan(&frame.op, tensor.max(hbm_cycles(site, u128::from(bytes))));
    plan.split_depth = op.k;
    plan.fact(
        "items",
        format!("{items} of {} x {} of C", sizes.tm, sizes.tn),
    );
    plan.fact("chunk of k", sizes.kc);
    plan.fact(
        "ring",
        format!("{} buffers of {} bytes", ring.slots, ring.bytes),
    );
    ring.declare(&mut frame)?;
    emit(op, &sizes, items, ring, &mut frame);
    Ok(frame.finish(plan))
}

/// Bytes of A, B and C up to the last that is touched.
fn check(op: &Batched, frame: &Frame) -> Result<[u64; 3], CompileError> {
    let [a, b, c] = op.dtypes;
    let pair = |x: fn(Dtype) -> bool| x(a) && x(b);
    let fp8 = |t| matches!(t, Dtype::E4m3 | Dtype::E5m2);
    if !pair(fp8) && !pair(|t| t == Dtype::Bf16) {
        let reason = format!("operands {a} and {b}: both must be bf16, or both e4m3 or e5m2");
        return Err(frame.no_plan(reason));
    }
    if !matches!(c, Dtype::Bf16 | Dtype::F32) {
        return Err(frame.no_plan(format!("result {c}: it must be bf16 or f32")));
    }
    let extents = [("m", op.m), ("n", op.n), ("k", op.k)];
    let batches = op.batches.iter().map(|a| ("batch", a.count));
    for (name, value) in extents.into_iter().chain(batches) {
        let limit = u64::from(u32::MAX);
        if !(1..=limit).contains(&value) {
            return Err(frame.no_plan(format!("{name} is {value}; it must be 1 to {limit}")));
        }
    }
    let mut ends = [0; 3];
    for (i, (rows, length)) in op.stored().into_iter().enumerate() {
        if op.rows[i] < length {
            let name = ["A", "B", "C"][i];
            let got = op.rows[i];
            return Err(frame.no_plan(format!(
                "rows of {name} are {got} elements apart and {length} long"
            )));
        }
        let far = |count: u64, step: u64| u128::from(count - 1).saturating_mul(u128::from(step));
        let batches = op.batches.iter().map(|x| far(x.count, [x.a, x.b, x.c][i]));
        let last = batches.fold(far(rows, op.rows[i]), u128::saturating_add);
        let size = u128::from(op.dtypes[i].bits() / 8);
        let bytes = last.saturating_add(u128::from(length)).saturating_mul(size);
        let limit = frame.site.chip.hbm_bytes();
        if bytes > u128::from(limit) {
            return Err(frame.no_plan(format!("{bytes} bytes; the chip's HBM holds {limit}")));
        }
        ends[i] = bytes as u64;
    }
    let steps = op.batches.iter().map(|x| x.c);
    if steps
        .zip(&op.batches)
        .any(|(step, x)| step == 0 && x.count > 1)
    {
        return Err(frame.no_plan("a batch axis has stride 0 in C".to_owned()));
    }
    Ok(ends)
}

/// Bytes of rows in SRAM.
fn pitch(elements: u64, dtype: Dtype) -> u64 {
    (elements * u64::from(dtype.bits() / 8)).next_multiple_of(WORD)
}

fn of(op: &Batched, tm: u64, tn: u64, kc: u64) -> Sizes {
    let [a, b, c] = op.dtypes;
    let b_row = if op.turned { kc } else { tn };
    let b_rows = if op.turned { tn } else { kc };
    let pitch = [pitch(kc, a), pitch(b_row, b), pitch(tn, c)];
    let a_bytes = (tm * pitch[0]).next_multiple_of(ALIGN);
    Sizes {
        tm,
        tn,
        mb: op.m.div_ceil(tm),
        nb: op.n.div_ceil(tn),
        kc,
        pitch,
        a_bytes,
        slot: (a_bytes + b_rows * pitch[1]).next_multiple_of(ALIGN),
        result: (tm * pitch[2]).next_multiple_of(ALIGN),
    }
}

/// The block of C: as much as the accumulators hold, near a square, but not so much that tiles have no work or SRAM is short.
fn sizes(op: &Batched, frame: &Frame) -> Result<Sizes, CompileError> {
    let chip: &Chip = &frame.site.chip;
    let blocks = u64::from(chip.ttu.accumulator_blocks).max(1);
    let (rows, columns) = (op.m.div_ceil(BLOCK), op.n.div_ceil(BLOCK));
    let side = blocks.isqrt();
    let mut y = rows.min(side);
    let mut x = columns.min(blocks / y);
    y = rows.min(blocks / x);
    let count = op.count();
    loop {
        // Blocks of one size: tiles would not have the same work if those at the edge were smaller.
        let even = |all: u64, block: u64| all.div_ceil(all.div_ceil(block));
        (y, x) = (even(rows, y), even(columns, x));
        let (tm, tn) = ((y * BLOCK).min(op.m), (x * BLOCK).min(op.n));
        let items = count * u128::from(op.m.div_ceil(tm)) * u128::from(op.n.div_ceil(tn));
        let few = items < u128::from(frame.tiles());
        let fits = chunk(op, tm, tn, frame);
        // Rows of operands shorter than a request waste it, until blocks become too small to be worth it.
        let request = REQUEST / u64::from(op.dtypes[0].bits() / 8);
        let short = |s: &Sizes| s.kc < op.k.min(request) && x * y > LEAST;
        match fits {
            Some(sizes) if !(few || short(&sizes)) || (x == 1 && y == 1) => return Ok(sizes),
            _ if y >= x && y > 1 => y = y.div_ceil(2),
            _ if x > 1 => x = x.div_ceil(2),
            _ => {
                let need = 4 * ALIGN + Ring::slots() * of(op, tm, tn, op.k.min(KBLOCK)).slot;
                let free = frame.free();
                return Err(frame.no_plan(format!(
                    "blocks of {tm} x {tn} need {need} bytes of SRAM, {free} are free"
                )));
            }
        }
    }
}

/// The longest chunk of K for a block of C: all of it or whole accumulation blocks.
fn chunk(op: &Batched, tm: u64, tn: u64, frame: &Frame) -> Option<Sizes> {
    let fits = |kc: u64| {
        let sizes = of(op, tm, tn, kc);
        let room = Ring::room(frame, RESULTS * sizes.result);
        (sizes.slot <= room).then_some(sizes)
    };
    if let Some(all) = fits(op.k) {
        return Some(all);
    }
    let (mut low, mut high) = (0, op.k.div_ceil(KBLOCK));
    // The longest that fits, between one that does and one that does not.
    while high - low > 1 {
        let middle = low.midpoint(high);
        match fits(middle * KBLOCK) {
            Some(_) => low = middle,
            None => high = middle,
        }
    }
    fits(low * KBLOCK).filter(|_| low > 0)
}

fn emit(op: &Batched, s: &Sizes, items: u64, ring: Ring, frame: &mut Frame) {
    let [a, b, c] = op.dtypes;
    let size = [a, b, c].map(|t| u64::from(t.bits() / 8));
    let first = frame.site.semaphore + ring.semaphores();
    let (load, store) = frame.channels();
    let tiles = frame.tiles();
    let text = &mut frame.text;
    for (name, value, comment) in [
        ("RESULT", s.result, "bytes of a result"),
        (
            "CFREE",
            first,
            "semaphores, one per result: it may be written",
        ),
        (
            "CREADY",
            first + RESULTS,
            "semaphores, one per result: it is whole",
        ),
        ("TILES", tiles, ""),
        ("ITEMS", items, "blocks of C"),
        ("MB", s.mb, "of them along m"),
        ("NB", s.nb, "and along n"),
        ("TM", s.tm, "rows of one"),
        ("TN", s.tn, "its columns"),
        ("KC", s.kc, "of K at a time"),
        ("K", op.k, ""),
    ] {
        text.equ(name, value, comment);
    }
    text.registers(&[
        ("me", "this unit"),
        ("slot", "buffer of the ring"),
        ("buf", "its address: A's chunk"),
        ("b_buf", "B's chunk"),
        ("t", "scratch"),
        ("item", "block of C"),
        ("rest", "what of it is not yet placed"),
        ("idx", "place on an axis"),
        ("a_at", "of the chunk in HBM"),
        ("b_at", ""),
        ("c_at", "of the block in HBM"),
        ("m", "rows of the block"),
        ("n", "its columns"),
        ("kk", "of K in this chunk"),
        ("left", "of K to go"),
        ("a_far", "bytes between rows in HBM"),
        ("b_far", ""),
        ("c_far", ""),
        ("a_near", "and in SRAM"),
        ("b_near", ""),
        ("c_near", ""),
        ("result", "buffer of the result"),
        ("c_buf", "its address"),
        ("bytes", "of a row"),
    ]);
    text.blank();
    text.directive(".tile");
    ring.start(frame);
    let text = &mut frame.text;
    for r in 0..RESULTS {
        text.inst(&format!("sem.post me, CFREE + {r}, 1"));
    }
    for (i, name) in ["a", "b", "c"].into_iter().enumerate() {
        let far = op.rows[i] * size[i];
        text.block(&format!(
            "li {name}_far, {far}\nli {name}_near, {}",
            s.pitch[i]
        ));
    }
    text.block(
        "li result, 0
         rdsr item, tile
         next_item:
         li t, ITEMS
         bge item, t, done
         li a_at, A
         li b_at, B
         li c_at, C
         addi rest, item, 0",
    );
    let advance = |text: &mut Text, at: &str, step: u64| {
        if step > 0 {
            text.block(&format!("li t, {step}\nmul t, t, idx\nadd {at}, {at}, t"));
        }
    };
    let place = |text: &mut Text, count: &str| {
        text.block(&format!(
            "li t, {count}\nremu idx, rest, t\ndivu rest, rest, t"
        ));
    };
    place(text, "NB");
    let b_column = if op.turned { op.rows[1] } else { 1 };
    advance(text, "b_at", s.tn * b_column * size[1]);
    advance(text, "c_at", s.tn * size[2]);
    for (length, all, block) in [("n", op.n, "TN"), ("m", op.m, "TM")] {
        text.block(&format!(
            "li t, {block}
             mul idx, idx, t
             li {length}, {all}
             sub {length}, {length}, idx
             min {length}, {length}, t"
        ));
        if length == "n" {
            place(text, "MB");
            advance(text, "a_at", s.tm * op.rows[0] * size[0]);
            advance(text, "c_at", s.tm * op.rows[2] * size[2]);
        }
    }
    for axis in op.batches.iter().rev().filter(|x| x.count > 1) {
        place(text, &axis.count.to_string());
        for (at, step) in [
            ("a_at", axis.a * size[0]),
            ("b_at", axis.b * size[1]),
            ("c_at", axis.c * size[2]),
        ] {
            advance(text, at, step);
        }
    }
    text.block(
        "li left, K
         chunk:
         li t, KC
         min kk, left, t",
    );
    ring.take(frame);
    let text = &mut frame.text;
    // Rows of B as they are stored, and how many of them a chunk has.
    let (b_row, b_rows, b_step, order) = match op.turned {
        true => ("kk", "n", s.kc * size[1], "nk"),
        false => ("n", "kk", s.kc * op.rows[1] * size[1], "kn"),
    };
    let mm = |mode: &str| {
        format!("mm.{mode}.{a}.{b}.mk.{order} r0, buf, b_buf, m, n, kk, a_near, b_near")
    };
    text.block(&format!(
        "muli bytes, kk, {a_size}
         signal READY(slot), 1
         dim m, a_near, a_far
         dma.u8.u8 {load}, buf, a_at, bytes
         li b_buf, {a_bytes}
         add b_buf, b_buf, buf
         muli bytes, {b_row}, {b_size}
         signal READY(slot), 1
         dim {b_rows}, b_near, b_far
         dma.u8.u8 {load}, b_buf, b_at, bytes
         wait READY(slot), 2
         signal FREE(slot), 1
         li t, K
         bne left, t, add
         {new}
         j multiplied
         add:
         {acc}
         multiplied:
         addi a_at, a_at, {a_step}
         li t, {b_step}
         add b_at, b_at, t",
        a_size = size[0],
        b_size = size[1],
        a_bytes = s.a_bytes,
        a_step = s.kc * size[0],
        new = mm("new"),
        acc = mm("acc"),
    ));
    ring.next(frame);
    frame.text.block(&format!(
        "sub left, left, kk
         bnez left, chunk
         muli t, result, RESULT
         li c_buf, results
         add c_buf, c_buf, t
         sem.wait CFREE(result), 1
         signal CREADY(result), 1
         mm.store.{c} r0, c_buf, m, n, c_near
         muli bytes, n, {c_size}
         wait CREADY(result), 1
         signal CFREE(result), 1
         dim m, c_far, c_near
         dma.u8.u8 {store}, c_at, c_buf, bytes
         xori result, result, 1
         addi item, item, TILES
         j next_item
         done:",
        c_size = size[2],
    ));
    if frame.site.chained {
        for r in 0..RESULTS {
            frame.text.inst(&format!("sem.wait CFREE + {r}, 1"));
        }
    }
    ring.drain(frame);
}
