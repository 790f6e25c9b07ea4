//! Decode: few queries per K/V head, many keys. HBM limits it, so every tile streams an equal share of all keys.
//!
//! A *line* is the keys of a batch element for a part of its K/V heads (all of them, unless their query rows pass 128 lanes or
//! a block would not fit), or, where those are few, of several batch elements at the same keys, as if they were heads. All lines together are cut in *units* of keys and every tile takes an equal, contiguous run of units,
//! whatever lines they belong to; a unit may be a whole line. A lane is (K/V head, query, query head), so one kernel serves all
//! heads of a block; products go head by head. A tile's part of one line is a *segment*, worked on in *blocks* of about equally many
//! keys. A segment that is a whole line is divided and written.
//!
//! A line over several tiles is joined where its output is cut: the rows of O^T in as many slices as there are *receivers*, the tiles
//! behind the line's first. Every tile of the line, receivers too, sends each receiver its slice, and its m and l to all of them, into
//! SRAM that is kept for it; at its end a receiver joins what came and writes its elements of O. A tile receives for one line at
//! most: the one that began before its run.
//!
//! Forms: V as the first elements of K's rows (a block is loaded once for both products), rows of V of another length, another scale,
//! sinks (they start m and l of the segment that a line begins with), a window for one query (a shorter line), pages (a block's
//! places are loaded in front of it and steer a gathering transfer; pages and windows do not meet).
//! Leaves out: reuse of K and V between queries (that is [`super::prefill`]), windows of several queries.

mod code;
mod describe;
mod join;
mod loads;
mod names;

use super::kernels::{JOIN_PARTS, JOIN_ROWS, STAT_BYTES, VECTOR_BYTES};
use super::{
    AHEAD, Channels, ENTRY, Geometry, KERNEL_NEEDS, LANES, RING, VARIABLES, declare, empty, no_room,
};
use crate::chip::{Chip, bank, cost};
use crate::compiler::CompileError;
use crate::compiler::emit::{Text, TsramLayout};
use crate::compiler::limits::Needs;
use crate::compiler::stage::Site;

/// Semaphores, in their order.
const SEMAPHORES: [&str; 26] = [
    "q_full",
    "q_free",
    "k_full",
    "k_free",
    "v_full",
    "v_free",
    "s_full",
    "s_free",
    "p_full",
    "p_free",
    "part_full",
    "part_free",
    "o_done",
    "first_done",
    "last_done",
    "o_free",
    "out_full",
    "out_free",
    "in_full",
    "joined",
    "sinks_full",
    "k_pages_full",
    "k_pages_free",
    "v_pages_full",
    "v_pages_free",
    "ended",
];

/// How the tiles share the lines.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Shares {
    /// Units of a line.
    line: u64,
    /// Units of every tile.
    each: u64,
    /// Tiles that have one more.
    more: u64,
}

/// Sizes of a schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tiling {
    /// Batch elements of a line.
    pub seqs: u64,
    /// K/V heads of a line, of each of its batch elements.
    pub line_heads: u64,
    /// Most keys of a block.
    pub keys: u64,
    /// Keys of a unit of the tiles' shares.
    pub unit: u64,
    /// Buffers for blocks of K, and of V.
    pub slots: u64,
    /// Tiles that join a line that lies in several; 0: none does.
    pub receivers: u64,
    /// Heads whose products are in the accumulator RAM at once: scores, output.
    batch: [u64; 2],
    /// Rows of a head's products that are in the accumulator RAM at once, where those of a head are not: scores, output.
    pieces: Option<[u64; 2]>,
    /// Predicted cycles.
    pub cycles: u64,
    /// What tilings are compared by.
    rank: u64,
}

impl Tiling {
    /// Query rows of a K/V head.
    fn rows(&self, g: &Geometry) -> u64 {
        g.group() * g.op.q_len
    }

    /// K/V heads of a line over all its batch elements.
    fn heads(&self) -> u64 {
        self.seqs * self.line_heads
    }

    /// Lanes in use.
    pub fn lanes(&self, g: &Geometry) -> u64 {
        self.heads() * self.rows(g)
    }

    fn padded_lanes(&self, g: &Geometry) -> u64 {
        self.lanes(g).next_multiple_of(32)
    }

    /// Bytes between rows of S^T and O^T.
    pub fn s_row(&self, g: &Geometry) -> u64 {
        4 * self.padded_lanes(g)
    }

    /// Bytes between rows of P^T.
    pub fn p_row(&self, g: &Geometry) -> u64 {
        g.element * self.padded_lanes(g)
    }

    fn lines(&self, g: &Geometry) -> u64 {
        g.op.batch / self.seqs * (g.op.kv_heads / self.line_heads)
    }

    fn shares(&self, g: &Geometry, chip: &Chip) -> Shares {
        let line = g.op.seen_keys().div_ceil(self.unit);
        let (all, tiles) = (line * self.lines(g), u64::from(chip.tiles()));
        Shares {
            line,
            each: all / tiles,
            more: all % tiles,
        }
    }

    /// Blocks of the tile that has the most: those of each part of a line that it has.
    fn most_blocks(&self, shares: &Shares, seen: u64, tiles: u64) -> u64 {
        let of_tile = |tile: u64| {
            let mut at = tile * shares.each + tile.min(shares.more);
            let end = at + shares.each + u64::from(tile < shares.more);
            let whole = seen.div_ceil(self.keys);
            let mut blocks = 0;
            while at < end {
                let (first, left) = (at % shares.line, end - at);
                if first == 0 && left >= shares.line {
                    let lines = left / shares.line;
                    blocks += lines * whole;
                    at += lines * shares.line;
                    continue;
                }
                let units = left.min(shares.line - first);
                let keys = ((first + units) * self.unit).min(seen) - first * self.unit;
                blocks += keys.div_ceil(self.keys);
                at += units;
            }
            blocks
        };
        (0..tiles).map(of_tile).max().unwrap_or(0).max(1)
    }

    /// The least and most tiles of the lines that lie in several; `None` if there are none.
    pub(super) fn parts(&self, g: &Geometry, chip: &Chip) -> Option<(u64, u64)> {
        let s = self.shares(g, chip);
        let tiles = u64::from(chip.tiles());
        let starts = (0..tiles).take_while(|t| s.each > 0 || *t < s.more);
        let inside = starts.map(|t| t * s.each + t.min(s.more));
        let inside = inside.filter(|start| !start.is_multiple_of(s.line));
        let mut found: Option<(u64, u64)> = None;
        let (mut line, mut count) = (None, 0);
        let mut close = |count: u64| {
            if count > 0 {
                let (least, most) = found.unwrap_or((u64::MAX, 0));
                found = Some((least.min(count + 1), most.max(count + 1)));
            }
        };
        for start in inside {
            if line != Some(start / s.line) {
                close(count);
                (line, count) = (Some(start / s.line), 0);
            }
            count += 1;
        }
        close(count);
        found
    }

    /// Rows of O^T that a receiver joins.
    fn slice(&self, g: &Geometry) -> u64 {
        g.op.value_dim() / self.receivers.max(1)
    }

    /// Bytes between rows of Q in SRAM: where a head's products come in pieces, and Q's rows one by one, so many that its rows meet
    /// in few banks.
    fn q_row(&self, g: &Geometry, chip: &Chip) -> u64 {
        let row = g.op.head_dim * g.element;
        let word = chip.tsram.bank_bytes;
        if self.pieces.is_none() || g.op.q_len > 1 {
            return row;
        }
        let strides = (0..=row.next_power_of_two() / u64::from(word)).map(|w| w * u64::from(word));
        let strides = strides.filter(|s| *s >= row);
        let meets = |s: &u64| bank::bank_cycles(chip, 0, *s, 32, word);
        strides.min_by_key(meets).unwrap_or(row).max(row)
    }

    /// Bytes of a block of K.
    fn k_bytes(&self, g: &Geometry) -> u64 {
        self.keys * self.heads() * g.op.head_dim * g.element
    }

    /// Bytes of a block of V, where it is not K's.
    fn v_bytes(&self, g: &Geometry) -> u64 {
        match g.op.form.v_in_k {
            true => 0,
            false => self.keys * self.heads() * g.op.value_dim() * g.element,
        }
    }

    /// Bytes that a page table's part for a block takes.
    fn table_bytes(&self, page: u64) -> u64 {
        (4 * self.keys.div_ceil(page)).next_multiple_of(64)
    }

    /// Places the buffers in an empty layout.
    fn layout(
        &self,
        g: &Geometry,
        chip: &Chip,
        mut l: TsramLayout,
    ) -> Result<TsramLayout, CompileError> {
        let value_dim = g.op.value_dim();
        let o = value_dim * self.s_row(g);
        let tables =
            g.op.form
                .page
                .map_or(0, |page| AHEAD * self.table_bytes(page));
        // Control words are together.
        l.place("state", CONTROL + tables)?;
        l.place("stats", 2 * STAT_BYTES)?;
        l.place("ones", VECTOR_BYTES)?;
        l.place("alpha", 2 * VECTOR_BYTES)?;
        l.place("lane_query", VECTOR_BYTES)?;
        if g.op.form.sinks {
            l.place("sink", g.op.kv_heads / self.line_heads * VECTOR_BYTES)?;
        }
        l.place("q_buf", 2 * self.lanes(g) * self.q_row(g, chip))?;
        l.place("s_ring", 2 * self.keys * self.s_row(g))?;
        l.place("p_ring", 2 * self.keys * self.p_row(g))?;
        l.place("o_part", o)?;
        l.place("o_buf", o)?;
        if let Some((_, most)) = self.parts(g, chip) {
            l.place("in_o", most * self.slice(g) * self.s_row(g))?;
            l.place("in_stat", (most + JOIN_PARTS) * 2 * self.s_row(g))?;
        }
        l.place("out", self.lanes(g) * value_dim * 2)?;
        l.place("k_ring", self.slots * self.k_bytes(g))?;
        if !g.op.form.v_in_k {
            l.place("v_ring", self.slots * self.v_bytes(g))?;
        }
        Ok(l)
    }

    /// Bytes from token to token in HBM, of K and of V.
    fn pitch(&self, g: &Geometry) -> u64 {
        let v = if g.op.form.v_in_k {
            0
        } else {
            g.op.value_dim()
        };
        g.op.kv_heads * (g.op.head_dim + v) * g.element
    }

    /// What the program needs besides memory. Counters hold the free slots of a ring, what is to be sent, or what arrives.
    fn needs(&self, g: &Geometry, chip: &Chip) -> Needs {
        let arrive = self.parts(g, chip).map_or(0, |(_, most)| 2 * most);
        let pages = g.op.form.page.map_or(0, |_| AHEAD);
        Needs {
            semaphores: SEMAPHORES.len() as u64,
            counter: [
                2,
                self.slots * self.k_loads(),
                arrive,
                self.receivers + 2,
                pages,
            ]
            .into_iter()
            .max()
            .unwrap_or(0),
            ..KERNEL_NEEDS
        }
    }

    /// Transfers that a block of K comes in: as many as its scores are computed in, so that these need not await the block.
    fn k_loads(&self) -> u64 {
        self.pieces.map_or(1, |[rows, _]| self.keys.div_ceil(rows))
    }

    /// Reads of O^T and statistics that free them: a transposing transfer, or what is sent.
    fn sends(&self) -> u64 {
        match self.receivers {
            0 => 1,
            r => r + 1,
        }
    }
}

/// Bytes of control words in front of the tables of pages.
const CONTROL: u64 = VARIABLES + (RING + 1) * ENTRY;

/// What of the operation's form the schedule does not know.
fn refused(g: &Geometry) -> Option<String> {
    let form = &g.op.form;
    let hides = g.op.seen_keys() < g.op.kv_len;
    if form.window.is_some_and(|w| w < g.op.kv_len) && g.op.q_len > 1 {
        return Some("takes a window with one query only".to_owned());
    }
    let page = form.page?;
    if hides {
        return Some("takes no window over pages".to_owned());
    }
    let fits = page.is_power_of_two() && page >= 8;
    (!fits).then(|| format!("takes pages of a power of two from 8 tokens, not {page}"))
}

/// The tiling of the least rank among those that fit.
///
/// # Errors
/// As [`tilings`].
pub fn plan(g: &Geometry, chip: &Chip) -> Result<Tiling, String> {
    // Of equals the one with the most buffers and the longest runs in HBM.
    let mut best: Option<Tiling> = None;
    for t in tilings(g, chip)? {
        if best.is_none_or(|b| t.rank <= b.rank) {
            best = Some(t);
        }
    }
    best.ok_or_else(|| no_room(chip))
}

/// The tilings that fit, never none.
///
/// # Errors
/// Why none fits: more than 128 query rows to a K/V head, or what the least demanding tiling lacks.
pub fn tilings(g: &Geometry, chip: &Chip) -> Result<Vec<Tiling>, String> {
    let op = &g.op;
    if let Some(reason) = refused(g) {
        return Err(reason);
    }
    let rows = g
        .group()
        .checked_mul(op.q_len)
        .filter(|r| *r <= LANES)
        .ok_or_else(|| format!("has more than {LANES} query rows to a K/V head"))?;
    let mut refused: Option<String> = None;
    let mut all = Vec::new();
    let seen = op.seen_keys();
    let parts = (1..=op.kv_heads.min(LANES / rows)).filter(|h| op.kv_heads.is_multiple_of(*h));
    let whole = LANES / rows / op.kv_heads;
    let several = (2..=whole.min(op.batch)).filter(|s| {
        s.is_power_of_two()
            && op.batch.is_multiple_of(*s)
            && op.q_len == 1
            && op.form.page.is_none()
    });
    let several = several.map(|seqs| (seqs, op.kv_heads));
    for (seqs, line_heads) in parts.map(|heads| (1, heads)).chain(several) {
        for keys in BLOCKS {
            // Larger ones are no other.
            if keys >= 2 * seen.next_multiple_of(16) {
                break;
            }
            let Some((batch, pieces)) = accumulators(g, chip, seqs * line_heads, keys) else {
                continue;
            };
            for unit in UNITS.into_iter().filter(|u| *u < seen).chain([seen]) {
                let long = |page| pieces.is_some_and(|[rows, _]| rows % page != 0);
                let cuts = |page| unit % page != 0 && unit != seen;
                let odd = |page| keys % page != 0 && page % keys != 0;
                if op
                    .form
                    .page
                    .is_some_and(|page| cuts(page) || odd(page) || long(page))
                {
                    continue;
                }
                for receivers in [0, 1, 2, 4, 8, 16] {
                    let slice = op.value_dim() / receivers.max(1);
                    if !slice.is_multiple_of(JOIN_ROWS) {
                        continue;
                    }
                    let mut t = Tiling {
                        seqs,
                        line_heads,
                        keys,
                        unit,
                        slots: 0,
                        receivers,
                        batch,
                        pieces,
                        cycles: 0,
                        rank: 0,
                    };
                    let fits = match t.parts(g, chip) {
                        None => receivers == 0,
                        Some((least, _)) => receivers > 0 && receivers < least,
                    };
                    if !fits {
                        continue;
                    }
                    for slots in [2, 3, 4, 6, AHEAD] {
                        // With V in it a block of K is held until the block behind it has its scores.
                        if slots == 2 && op.form.v_in_k {
                            continue;
                        }
                        t.slots = slots;
                        if t.layout(g, chip, TsramLayout::new(chip)).is_err() {
                            break;
                        }
                        if let Some(missing) = t.needs(g, chip).missing(chip) {
                            refused.get_or_insert(missing);
                            break;
                        }
                        [t.cycles, t.rank] = predict(&t, g, chip);
                        all.push(t);
                    }
                }
            }
        }
    }
    match all.is_empty() {
        true => Err(refused.unwrap_or_else(|| no_room(chip))),
        false => Ok(all),
    }
}

/// Keys of a block that are tried.
const BLOCKS: [u64; 11] = [16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024];
/// Keys of a unit that are tried, besides a whole line.
const UNITS: [u64; 8] = [16, 32, 64, 128, 256, 512, 1024, 2048];

/// How products lie in the accumulator RAM, half of it for scores and half for output: so many heads at once, or where those of one
/// head do not fit, so many rows at once in two places that take turns. `None`: neither fits.
fn accumulators(
    g: &Geometry,
    chip: &Chip,
    heads: u64,
    keys: u64,
) -> Option<([u64; 2], Option<[u64; 2]>)> {
    let half = u64::from(chip.ttu.accumulator_blocks) / 2;
    let columns = (g.group() * g.op.q_len).div_ceil(32);
    let blocks = [keys, g.op.value_dim()].map(|rows| rows.div_ceil(32) * columns);
    if blocks.iter().all(|b| *b <= half) {
        return Some((blocks.map(|b| half / b), None));
    }
    let quarter = half / 2;
    let rows = 32 * (quarter / columns);
    let place = quarter.checked_ilog2().map_or(0, |l| 1 << l);
    // With fewer blocks of rows than of columns the tensor unit keeps a block of K or V and reads its other operand, Q or P, each
    // step: those rows lie apart as its banks like it.
    let rows = rows
        .min(32 * (place / columns))
        .min(32 * (columns - 1).max(1));
    (heads == 1 && rows > 0).then_some(([1, 1], Some([rows, rows])))
}

/// Cycles without queueing: the slowest of HBM, vector, control and tensor work of a tile's blocks, and what comes before and after.
/// Then the same as tilings are compared by.
fn predict(t: &Tiling, g: &Geometry, chip: &Chip) -> [u64; 2] {
    let op = &g.op;
    let tiles = u64::from(chip.tiles());
    let shares = t.shares(g, chip);
    let units = shares.each + u64::from(shares.more > 0);
    let seen = op.seen_keys();
    let share = (units * t.unit).min(units.div_ceil(shares.line) * seen) as f64;
    let blocks = t.most_blocks(&shares, seen, tiles) as f64;
    let keys = share / blocks;
    let request = f64::from(chip.dma.request_bytes);
    // Rows that are no whole requests waste the rest of one.
    let row = |dim: u64| {
        let piece = (t.line_heads * dim * g.element) as f64;
        t.seqs as f64
            * match t.line_heads == op.kv_heads {
                true => piece,
                false => (piece / request).ceil() * request,
            }
    };
    let mut token = row(op.head_dim);
    if !op.form.v_in_k {
        token += row(op.value_dim());
    }
    let busy = (tiles as f64).min((shares.each * tiles + shares.more) as f64);
    // Rows of a part of the heads walk over as large a part of the channels: fewer streams in each, so that rows stay open.
    let part = match t.line_heads == op.kv_heads {
        true => 1.0,
        false => (token / t.pitch(g) as f64).min(1.0),
    };
    let peak = cost::hbm_peak_bytes_per_s(chip) as f64 / chip.clock_hz as f64;
    let rate = peak * (STREAMED - PARTED * part);
    // Little's law: what is in flight, over the latency.
    let in_flight = f64::from(chip.dma.outstanding) * request;
    let held = if op.form.v_in_k { 2.0 } else { 1.0 };
    let ahead = (t.slots as f64 - held) * keys * token;
    let cycles = |ns: f64| ns * chip.clock_hz as f64 * 1e-9;
    let path = f64::from(chip.hbm.path.total_ns());
    let latency = cycles(path + ACCESS_NS);
    let loaded = cycles(path + LOADED_NS);
    let per_tile = (rate / busy).min(in_flight.min(ahead) / loaded).min(256.0);
    let value_dim = op.value_dim() as f64;
    // Its first scores await a part of a block only.
    let first = keys / (t.k_loads() as f64).max(1.0);
    let hbm = keys * token / per_tile;
    let vector = 3.0 * keys + 2.0 * value_dim + VECTOR_BLOCK;
    let items = match t.pieces {
        None => 2.0 * t.heads() as f64,
        Some([s, o]) => (keys / s as f64).ceil() + (value_dim / o as f64).ceil(),
    };
    let control = 30.0 * items + 350.0;
    let dtype = op.dtype;
    let rows = t.rows(g);
    let block = (keys as u64).max(1);
    // A piece is stored beside the next one's product: of the stores only the last one's takes time.
    let [scored, put] = match t.pieces {
        None => [block, op.value_dim()],
        Some([s, o]) => [block.min(s), op.value_dim().min(o)],
    };
    let scores = cost::mm_steps(chip, dtype, dtype, block, rows, op.head_dim)
        + cost::store_cycles(chip, crate::num::Dtype::F32, scored, rows);
    let output = cost::mm_steps(chip, dtype, dtype, op.value_dim(), rows, block)
        + cost::store_cycles(chip, crate::num::Dtype::F32, put, rows);
    let launch = 2.0 * f64::from(chip.ttu.latency_cycles);
    let scores = (t.heads() * scores) as f64 + launch;
    let output = (t.heads() * output) as f64 + launch;
    let tensor = scores + output;
    let busiest = hbm.max(vector).max(control).max(tensor);
    // The first block comes in and goes through; then the others.
    let start = START + latency + first * token / per_tile + scores;
    let end = vector + output + control;
    let lanes = t.lanes(g) as f64;
    let write = latency + lanes * value_dim * 2.0 / 256.0;
    let join = match t.parts(g, chip) {
        None => 0.0,
        Some((_, most)) => {
            let (parts, slice) = (most as f64, t.slice(g) as f64);
            let port = f64::from(chip.noc.tile_port_bytes).max(1.0);
            // The receiver's own part is the beginning of its run: it has been sent long before.
            let came = (parts - 1.0) * slice;
            let sent = (slice * t.receivers as f64).max(came) * t.s_row(g) as f64 / port;
            let kernel = slice / JOIN_ROWS as f64 * (14.0 * parts + 24.0) + 12.0 * parts + 150.0;
            sent + kernel + 24.0 * t.receivers as f64 + 300.0
        }
    };
    let cycles = start + (blocks - 1.0) * busiest + end + join + write;
    // What kernels bound rather than the memory reaches less than predicted, the more so the larger its blocks.
    let rank = cycles + busiest - busiest.min(hbm);
    [cycles as u64, rank as u64]
}

// Estimates that choose schedules and move no simulated time, measured on maia-200 with first-order HBM.
/// Share of HBM's peak that streams of whole rows reach: of 32 x 8,192 tokens BF16 96.5 %, FP8 92 to 95 %; refresh takes 2.5 % of it, changes of
/// rows the rest.
const STREAMED: f64 = 0.95;
/// How much of it is lost by several streams in each channel: rows of all heads reach about 3 % less than those of few.
const PARTED: f64 = 0.03;
/// Nanoseconds of a lone request beside the path outside of the DRAM: with it the 0.43 us from which the chip's description has `dma.outstanding`.
const ACCESS_NS: f64 = 100.0;
/// The same where all tiles load as much as they can: a transfer's last bytes come 1,000 to 1,070 cycles (465 to 500 ns) behind its last
/// request (trace of latents, batch 32, 4,096 keys).
const LOADED_NS: f64 = 170.0;
/// Cycles of a block's launches of vector kernels beside their loops.
const VECTOR_BLOCK: f64 = 330.0;
/// Cycles of control code before the first load.
const START: f64 = 300.0;

/// Facts for the plan.
pub fn explain(t: &Tiling, g: &Geometry, chip: &Chip) -> Vec<(&'static str, String)> {
    let bytes = (t.k_bytes(g) + t.v_bytes(g)) / 1024;
    let shares = t.shares(g, chip);
    vec![
        (
            "schedule",
            "decode: all keys in one line, an equal run of units for every tile".into(),
        ),
        (
            "lines",
            format!(
                "{} of {} keys, {} K/V heads of {} batch elements each",
                t.lines(g),
                g.op.seen_keys(),
                t.line_heads,
                t.seqs
            ),
        ),
        (
            "shares",
            format!(
                "{} or {} units of {} keys on each of {} tiles, in blocks of up to {} keys",
                shares.each,
                shares.each + u64::from(shares.more > 0),
                t.unit,
                chip.tiles(),
                t.keys
            ),
        ),
        (
            "joins",
            match t.parts(g, chip) {
                None => "none: no line is in two tiles".to_owned(),
                Some((_, most)) => format!(
                    "lines in up to {most} tiles, each by {} of them, {} elements of a head each",
                    t.receivers,
                    t.slice(g)
                ),
            },
        ),
        ("rows", format!("{} lanes", t.lanes(g))),
        (
            "buffers",
            format!("{} blocks of K and V, {bytes} KiB each", t.slots),
        ),
    ]
}

/// Emits the tile program.
pub fn emit(text: &mut Text, t: &Tiling, g: &Geometry, site: &Site) -> Result<(), CompileError> {
    let layout = t.layout(g, &site.chip, empty(site))?;
    let channels = Channels::of(site);
    declare(text, &layout, &["state"]);
    text.blank();
    names::constants(text, t, g, site);
    text.directive(".tile");
    text.registers(&[
        ("a0", "arguments of operations and scratch"),
        ("a1", ""),
        ("a2", ""),
        ("a3", ""),
        ("a4", ""),
        ("a5", ""),
        ("a6", ""),
        ("a7", ""),
        ("t0", "scratch"),
        ("t1", ""),
        ("t2", ""),
        ("t3", ""),
        ("t4", ""),
        ("t5", ""),
        ("ra", "return address"),
        ("st", "variables of control code"),
        ("x", "block of the softmax"),
        ("n", "its keys"),
        ("xs", "its S"),
        ("xp", "its P"),
        ("xv", "its V"),
        ("ss", "block of the next scores"),
        ("sr", "its S"),
        ("sk", "its K"),
        ("upd", "block whose O update is due, or 0"),
        ("h", "heads left"),
        ("b", "heads of a batch"),
        ("pl", "rows left for products"),
        ("wl", "rows left for stores"),
        ("ac", "accumulators"),
    ]);
    code::start(text, t, g, site);
    code::main_loop(text, t, g, site);
    code::push_scores(text, t, g);
    code::push_output(text, t, g);
    join::push_update(text, t, g, site);
    loads::loads(text, t, g, channels);
    describe::generate(text, t, g, channels);
    site.end(text);
    Ok(())
}
