//! The text of a grouped product's stage.
//!
//! Models: what a tile's control processor reads, decides and pushes. Three cursors go over the jobs: loads of weights, a ring ahead; rows of X, a few
//! jobs ahead; products with their stores. Leaves out: where the ids come from. Invariants: a place for a job's rows is taken by the processor itself,
//! when the writes of the job that had it are over, so that tables are never changed under a transfer; everything else waits in its queue
//! and only for what was pushed before it, on every tile.

use super::plan::Packing;
use super::{TABLE_ROWS, TRAP, sorted};
use crate::chip::Chip;
use crate::compiler::emit::{Text, TsramLayout};
use crate::compiler::limits::Needs;
use crate::compiler::stage::{Site, Stage};
use crate::compiler::{CompileError, Plan};

/// Semaphores beside those of each place: ids are there; chunks that are there; free slots of the ring; panels of sums.
const SINGLE: u64 = 4;
/// Of each place: slices of X that are there; tiles that need them no more; Y is written; this tile's slice has arrived everywhere.
const OF_PLACE: u64 = 4;

/// What a chip must have for it, beside SRAM.
pub(super) fn needs(p: &Packing) -> Needs {
    Needs {
        semaphores: SINGLE + OF_PLACE * p.slots,
        counter: p.tiles.max(p.ring).max(p.slots * p.panels),
        per_op: 2,
        ..Needs::default()
    }
}

/// A stage in two parts.
pub struct Split {
    /// Declarations, then what a tile may do before X is there: the ids, and the first loads of experts. It touches nothing of other tiles. Registers
    /// from r3 on stay as they are between the parts.
    pub early: String,
    /// All else.
    pub stage: Stage,
}

/// The stage. Tensors of its site: X, ids (control), the experts as [`super::pack`] lays them, Y. `control`: offset in TSRAM of
/// [`super::control_bytes`] outside of the site, where no stage keeps elements.
///
/// # Errors
/// A site that does not have what the plan takes.
pub fn stage(p: &Packing, control: u64, site: &Site) -> Result<Stage, CompileError> {
    let Split { early, stage } = split(p, false, control, site)?;
    Ok(Stage {
        text: early + &stage.text,
        ..stage
    })
}

/// [`stage`] in two parts. `known`: the last stage that used the place of control data had the same ids, as many experts and rows, so that the
/// lists are there.
///
/// # Errors
/// As [`stage`].
pub fn split(p: &Packing, known: bool, control: u64, site: &Site) -> Result<Split, CompileError> {
    let no_plan = |reason: String| CompileError::NoPlan {
        op: p.op.to_string(),
        chip: site.chip.name.clone(),
        reason,
    };
    let needs = match p.sorted {
        true => sorted::needs(p, &site.chip),
        false => needs(p),
    };
    if let Some(reason) = needs.missing(&site.chip) {
        return Err(no_plan(reason));
    }
    if site.tensors.len() != 4 {
        let got = site.tensors.len();
        return Err(no_plan(format!("it has 4 tensors, the site places {got}")));
    }
    if p.sorted {
        return sorted::split(p, known, control, site);
    }
    let plan = describe(p, &site.chip);
    let mut text = Text::default();
    text.comment(&plan.to_string());
    let mut emit = Emit { p, site, text };
    emit.tensors(control)?;
    emit.names();
    emit.start(known);
    let early = std::mem::take(&mut emit.text).finish();
    emit.first();
    emit.jobs();
    emit.load();
    emit.prepare();
    emit.text.label("grouped_end");
    Ok(Split {
        early,
        stage: Stage {
            text: emit.text.finish(),
            plan,
            crosses: true,
        },
    })
}

struct Emit<'a> {
    p: &'a Packing,
    site: &'a Site,
    text: Text,
}

impl Emit<'_> {
    /// DMA channels of weights, of X and of Y.
    fn channels(&self) -> [u64; 3] {
        [0, 1, 2].map(|c| self.site.dma(c))
    }

    /// Declares tensors and buffers.
    fn tensors(&mut self, control: u64) -> Result<(), CompileError> {
        let (p, op) = (self.p, &self.p.op);
        let x_rows = op.rows / op.fan;
        let shapes = [
            ("x", op.input.name(), format!("{x_rows}, {}", op.k)),
            ("ids", "i32", op.rows.to_string()),
            ("experts", "u8", p.bytes().to_string()),
            ("y", op.output.name(), format!("{}, {}", op.rows, op.n)),
        ];
        for (n, ((name, dtype, shape), at)) in
            shapes.into_iter().zip(&self.site.tensors).enumerate()
        {
            let class = if name == "ids" { "control" } else { "payload" };
            let space = self.site.space(n);
            self.text.directive(&format!(
                ".tensor grouped_{name}, {space}, {dtype}, [{shape}], {class}, at {at:#x}"
            ));
        }
        let (_, x_bytes, y_bytes) = p.buffers();
        let mut layout = TsramLayout::of(self.site);
        layout.place("xbuf", p.slots * x_bytes)?;
        layout.place("ybuf", p.slots * y_bytes)?;
        layout.place("ring", p.ring * p.slot)?;
        layout.declare(&mut self.text);
        let mut at = control;
        for (name, words) in [
            ("lists", 2 * op.experts),
            ("links", op.rows.next_multiple_of(2)),
            ("rows_of", TABLE_ROWS),
            ("from_of", TABLE_ROWS),
            ("counts", p.slots),
        ] {
            self.text.directive(&format!(
                ".tensor {name}, tsram, i32, [{words}], control, at {at:#x}"
            ));
            at += 4 * words;
        }
        Ok(())
    }

    /// Whether some tiles of a group fetch no slice.
    fn some_idle(&self) -> bool {
        self.p.slices < self.p.tiles
    }

    fn names(&mut self) {
        let (p, op) = (self.p, &self.p.op);
        let first = self.site.semaphore;
        let (scales, x_bytes, y_bytes) = p.buffers();
        let place = |n: u64| first + SINGLE + n * p.slots;
        let bits = op.operand().bits() as u64;
        for (name, value, comment) in [
            ("IDS", first, "semaphore: the ids are there"),
            (
                "FULL",
                first + 1,
                "semaphore: chunks of weights that are there",
            ),
            ("FREE", first + 2, "semaphore: free slots of the ring"),
            ("SUMS", first + 3, "semaphore: panels of Y that are in SRAM"),
            (
                "XFULL",
                place(0),
                "semaphores, one per place: slices of X that are there",
            ),
            (
                "XFREE",
                place(1),
                "semaphores, one per place: tiles that are done with X",
            ),
            ("DONE", place(2), "semaphores, one per place: Y is written"),
            (
                "SENT",
                place(3),
                "semaphores, one per place: the own slice of X is everywhere",
            ),
            ("ROWS", op.rows, "ids"),
            ("FAN", op.fan, "neighbours that share a row of X"),
            ("EXPERTS", op.experts, ""),
            ("GROUPS", p.groups, "of tiles"),
            ("TILES", p.tiles, "of a group"),
            ("K", op.k, ""),
            ("KC", p.kc, "of a chunk"),
            ("COLS", p.cols, "of a panel"),
            ("PANELS", p.panels, ""),
            ("BLOCKS", p.blocks(), "accumulators of a panel"),
            ("CHUNKS", p.panels * p.chunks, "of a tile and expert"),
            ("SHARE", p.share, "columns of a tile"),
            ("EXPERT", p.expert_bytes(), "bytes of an expert"),
            ("PIECES", p.pieces.count, "of a chunk"),
            ("PIECE", p.pieces.bytes, "bytes of one"),
            ("RING", p.ring, "slots"),
            ("SLOT", p.slot, "bytes of one"),
            ("MOST", p.most, "rows of a job"),
            ("PLACES", p.slots, "for jobs"),
            ("FROM", 4 * TABLE_ROWS, "from the rows of Y to those of X"),
            ("XBYTES", x_bytes, "of a place for rows of X"),
            ("XSCALES", scales, "where their scales begin"),
            ("YBYTES", y_bytes, "of a place for rows of Y"),
            ("SLICE", p.slice, "elements of X that a tile fetches"),
            ("SLICES", p.slices, ""),
            ("SLICE_BYTES", p.slice * bits / 8, "of it in SRAM"),
            ("LDA", p.lda, "bytes between rows of X"),
            ("LDSA", p.ldsa, "bytes between scales of X"),
            ("LDB", p.ldb(), "bytes between rows of a panel"),
            ("LDC", p.ldc, "bytes between rows of Y"),
        ] {
            self.text.equ(name, value, comment);
        }
        self.text.registers(&[
            ("t0", "scratch"),
            ("t1", "scratch"),
            ("t2", "scratch"),
            ("t3", "scratch"),
            ("me", "tile of the group"),
            ("unit", "this tile"),
            ("mask", "tiles of the group"),
            ("senders", "those of them that fetch slices"),
            ("xsrc", "this tile's slice of X"),
            ("depth", "its elements"),
            ("wsrc", "this tile's first piece of expert 0"),
            ("ydst", "this tile's columns of Y"),
            ("valid", "their number"),
            ("lbuf", "slot that is loaded next"),
            ("le", "expert that is loaded"),
            ("lrows", "rows of it in later jobs"),
            ("lleft", "chunks of the job to load"),
            ("lat", "address of the next"),
            ("xe", "expert whose rows are prepared"),
            ("xrows", "rows of it to go"),
            ("xrow", "the next of them, plus 1"),
            ("xp", "place that is prepared next"),
            ("place", "of the job"),
            ("count", "its rows"),
            ("buf", "slot of the next chunk"),
            ("left", "K of the panel to go"),
            ("pan", "panels to go"),
            ("ap", "rows of X from there on"),
            ("cp", "where sums go"),
            ("acc", "accumulators"),
        ]);
    }

    /// Everything up to the first loads of experts, and these.
    fn start(&mut self, known: bool) {
        let p = self.p;
        let [_, channel, _] = self.channels();
        let bit = |n: u64| (u64::MAX >> (64 - n)).cast_signed();
        self.text.directive(&format!(
            ".const grouped_masks, {}, {}",
            bit(p.tiles),
            bit(p.slices)
        ));
        self.text.directive(".tile");
        if !known {
            self.text.block(&format!(
                "la t0, links
                 la t1, grouped_ids
                 li t2, ROWS
                 signal IDS, 1
                 dma.i32.i32 {channel}, t0, t1, t2 # becomes the links of the rows"
            ));
        }
        self.text.block(
            "rdsr unit, tile
             li t0, TILES
             remu me, unit, t0
             divu le, unit, t0       # the group
             mul t0, t0, le
             li t1, 1
             ldc mask, grouped_masks(r0)
             ldc senders, grouped_masks(t1)
             shl mask, mask, t0
             shl senders, senders, t0
             sem.post unit, FREE, RING",
        );
        for n in 0..p.slots {
            self.text.inst(&format!("sem.post unit, DONE + {n}, 1"));
        }
        self.text.inst("li t0, SLICES");
        if self.some_idle() {
            self.text.inst("bge me, t0, no_slice");
        }
        for n in 0..p.slots {
            self.text.block(&format!(
                "sem.post unit, SENT + {n}, 1
                 sem.post unit, XFREE + {n}, TILES"
            ));
        }
        self.text.label("no_slice");
        let op = &p.op;
        self.text.block(&format!(
            "muli t0, me, SLICE
             li depth, K
             sub depth, depth, t0
             li t1, SLICE
             min depth, depth, t1
             muli t0, t0, {input}
             la xsrc, grouped_x
             add xsrc, xsrc, t0
             muli t0, me, PIECE
             la wsrc, grouped_experts
             add wsrc, wsrc, t0
             muli t0, me, SHARE
             li valid, {n}
             sub valid, valid, t0
             li t1, SHARE
             min valid, valid, t1
             muli t0, t0, {output}
             la ydst, grouped_y
             add ydst, ydst, t0
             addi le, le, -GROUPS
             mv xe, le
             li lrows, 0
             li lleft, 0
             li xrows, 0
             li xp, 0
             li place, 0
             li acc, 0
             la lbuf, ring
             la buf, ring",
            input = op.input.bits() / 8,
            output = op.output.bits() / 8,
            n = op.n,
        ));
        if !known {
            self.lists();
        }
        self.text.block(
            "li left, RING
             fill:
             jal ra, load
             dec left
             bnez left, fill",
        );
    }

    /// Links the rows of every expert.
    fn lists(&mut self) {
        self.text.block(
            "# No expert has rows: the number of them in the upper half of a word, the first plus 1 in the lower.
             la t0, lists
             li t1, EXPERTS
             clear_list:
             sd r0, 0(t0)
             addi t0, t0, 8
             dec t1
             bnez t1, clear_list
             # Every row goes in front of its expert's list, the last first; the id's place takes the link to the next, plus 1.
             sem.wait IDS, 1
             li t0, ROWS
             la t1, links + 4 * ROWS
             li ap, EXPERTS
             la cp, lists
             link:
             addi t1, t1, -4
             lw t2, 0(t1)
             bgeu t2, ap, no_expert
             shli t2, t2, 3
             add t2, t2, cp
             ld t3, 0(t2)
             sw t3, 0(t1)
             shri t3, t3, 32
             addi t3, t3, 1
             shli t3, t3, 32
             or t3, t3, t0
             sd t3, 0(t2)
             dec t0
             bnez t0, link",
        );
    }

    /// The first jobs.
    fn first(&mut self) {
        for _ in 0..self.p.ahead() {
            self.text.inst("jal ra, prepare");
        }
        self.text.block(&format!(
            "j job
             no_expert:
             trap {TRAP}                # an id outside 0 .. EXPERTS"
        ));
    }

    /// The jobs, and the end.
    fn jobs(&mut self) {
        let p = self.p;
        let [_, _, channel] = self.channels();
        let (a, w, y) = (p.op.operand(), p.op.weights, p.op.output);
        self.text.block(
            "job:
             shli t0, place, 2
             la t1, counts
             add t1, t1, t0
             lw count, 0(t1)
             beqz count, finish
             muli cp, place, YBYTES
             la t0, ybuf
             add cp, cp, t0
             li pan, PANELS
             wait XFULL(place), SLICES
             panel:
             li left, K
             muli ap, place, XBYTES
             la t0, xbuf
             add ap, ap, t0
             chunk:
             li t3, KC
             min t3, t3, left        # the last chunk may be short
             wait FULL, 1
             signal FREE, 1
             bne left, t3, not_last
             li t0, 1
             bne pan, t0, not_last
             signal.tiles senders, XFREE(place), 1
             not_last:",
        );
        if w.scaled() {
            let scales = p.scales_at();
            match p.op.quantises() {
                // The scales of block j of X are j * LDSA behind their first.
                true => self.text.block(&format!(
                    "li t0, K
                     sub t0, t0, left
                     shri t0, t0, 5
                     muli t0, t0, LDSA
                     muli t1, place, XBYTES
                     add t0, t0, t1
                     la t1, xbuf + XSCALES
                     add t0, t0, t1
                     li t1, LDSA
                     addi t2, buf, {scales}
                     li ra, COLS
                     mm.scale.e8m0.e8m0 t0, t1, t2, ra"
                )),
                false => self.text.block(&format!(
                    "addi t0, buf, {scales}
                     li t1, COLS
                     mm.scale.none.e8m0 r0, r0, t0, t1"
                )),
            }
        }
        self.text.block(&format!(
            "li t0, COLS
             li t1, LDA
             li t2, LDB
             li ra, K
             bne left, ra, go_on
             mm.new.{a}.{b}.mk.kn acc, ap, buf, count, t0, t3, t1, t2
             j pushed
             go_on:
             mm.acc.{a}.{b}.mk.kn acc, ap, buf, count, t0, t3, t1, t2
             pushed:
             sub left, left, t3
             muli t3, t3, {size}
             add ap, ap, t3
             addi buf, buf, SLOT
             la t0, ring + RING * SLOT
             bne buf, t0, in_ring
             la buf, ring
             in_ring:
             jal ra, load
             bnez left, chunk
             signal SUMS, 1
             li t0, COLS
             li t1, LDC
             mm.store.{y} acc, cp, count, t0, t1
             addi cp, cp, COLS * {out}
             xori acc, acc, BLOCKS
             dec pan
             bnez pan, panel
             # Y, row by row.
             blez valid, no_columns
             muli cp, place, YBYTES
             la t0, ybuf
             add cp, cp, t0
             muli t1, place, 4 * MOST
             la t0, rows_of
             add t1, t1, t0
             li t2, {pitch}
             wait SUMS, PANELS
             row:
             lw t0, 0(t1)
             mul t0, t0, t2
             add t0, t0, ydst
             addi t1, t1, 4
             dec count
             bnez count, not_last_row
             signal DONE(place), 1
             not_last_row:
             {to_all}
             dma.{y}.{y} {channel}, t0, cp, valid
             addi cp, cp, LDC
             bnez count, row
             j written
             no_columns:
             sem.wait SUMS, PANELS
             sem.post unit, DONE(place), 1
             written:
             addi place, place, 1    # the next, or the first: place < PLACES ? place : 0
             slti t0, place, PLACES
             mul place, place, t0
             jal ra, prepare
             j job
             # Whoever gives the last tokens back is done.
             finish:",
            b = w.dtype,
            size = a.bits() / 8,
            out = y.bits() / 8,
            pitch = p.op.n * u64::from(y.bits()) / 8,
            // Of a Y in every tile's SRAM.
            to_all = match self.site.is_local(3) {
                true => format!("li t3, {}\nmcast t3", self.site.all_tiles()),
                false => String::new(),
            },
        ));
        if self.site.chained {
            for n in 0..p.slots {
                self.text.inst(&format!("sem.wait DONE + {n}, 1"));
            }
            if self.some_idle() {
                self.text.block("li t0, SLICES\nbge me, t0, no_slice_left");
            }
            for n in 0..p.slots {
                self.text.block(&format!(
                    "sem.wait SENT + {n}, 1
                     sem.wait XFREE + {n}, TILES"
                ));
            }
            self.text.block(
                "no_slice_left:
                 sem.wait FREE, RING
                 j grouped_end",
            );
        } else {
            self.text.inst("halt");
        }
    }

    /// Subroutine: pushes the load of the next chunk, if there is one; clobbers t0 to t2.
    fn load(&mut self) {
        let p = self.p;
        let [channel, ..] = self.channels();
        self.text.block(&format!(
            "load:
             bnez lleft, load_chunk
             bgtz lrows, load_again
             load_find:
             addi le, le, GROUPS
             li t0, EXPERTS
             bge le, t0, loaded
             shli t0, le, 3
             la t1, lists
             add t0, t0, t1
             ld t0, 0(t0)
             shri lrows, t0, 32
             beqz lrows, load_find
             load_again:
             addi lrows, lrows, -MOST
             li lleft, CHUNKS
             li t0, EXPERT
             mul lat, le, t0
             add lat, lat, wsrc
             load_chunk:
             li t0, PIECES
             li t1, PIECE
             li t2, TILES * PIECE
             wait FREE, 1
             signal FULL, 1
             dim t0, t1, t2
             dma.u8.u8 {channel}, lbuf, lat, t1
             li t0, {step}
             add lat, lat, t0
             dec lleft
             addi lbuf, lbuf, SLOT
             la t0, ring + RING * SLOT
             bne lbuf, t0, loaded
             la lbuf, ring
             loaded:
             ret",
            step = p.tiles * p.pieces.total()
        ));
    }

    /// Subroutine: finds the rows of the next job and fetches this tile's slice of them; clobbers t0 to t3, ap, cp, left, pan and count.
    fn prepare(&mut self) {
        let p = self.p;
        let op = &p.op;
        let [_, channel, _] = self.channels();
        self.text.block(
            "prepare:
             shli t0, xp, 2
             la cp, counts
             add cp, cp, t0
             li count, 0
             bgtz xrows, prepare_again
             prepare_find:
             addi xe, xe, GROUPS
             li t0, EXPERTS
             bge xe, t0, prepared
             shli t0, xe, 3
             la t1, lists
             add t0, t0, t1
             ld xrow, 0(t0)
             shri xrows, xrow, 32
             beqz xrows, prepare_find
             shli xrow, xrow, 32
             shri xrow, xrow, 32
             prepare_again:
             sem.wait DONE(xp), 1",
        );
        if self.some_idle() {
            self.text.block("li t0, SLICES\nbge me, t0, sends_none");
        }
        self.text.block(
            "sem.wait SENT(xp), 1
             sends_none:
             li count, MOST
             min count, count, xrows
             sub xrows, xrows, count
             muli t0, xp, 4 * MOST
             la t1, rows_of
             add t1, t1, t0
             mv left, count
             la t2, links - 4
             li t3, FAN
             prepare_row:
             addi t0, xrow, -1
             sw t0, 0(t1)",
        );
        if op.fan > 1 {
            self.text.block("divu t0, t0, t3\nsw t0, FROM(t1)");
        }
        self.text.block(
            "shli t0, xrow, 2
             add t0, t0, t2
             lw xrow, 0(t0)
             addi t1, t1, 4
             dec left
             bnez left, prepare_row",
        );
        if self.some_idle() {
            self.text.block("li t0, SLICES\nbge me, t0, prepared");
        }
        let table = if op.fan > 1 { "from_of" } else { "rows_of" };
        let row = op.input.bytes_for(op.k);
        self.text.block(&format!(
            "muli t0, xp, 4 * MOST
             la t1, {table}
             add t1, t1, t0
             muli t2, xp, XBYTES
             la t0, xbuf
             add t2, t2, t0
             muli t0, me, SLICE_BYTES
             add t0, t0, t2
             li t3, LDA"
        ));
        if op.quantises() {
            self.text.block(&format!(
                "addi t2, t2, XSCALES
                 muli ap, me, {}
                 add t2, t2, ap",
                p.slice / 32 * p.ldsa
            ));
        }
        self.text.block(&format!(
            "wait XFREE(xp), TILES
             signal.dest XFULL(xp), 1
             signal SENT(xp), 1
             mcast mask
             dim count, t3, r0
             li t3, {row}
             gather t1, t3"
        ));
        let (from, to) = (op.input, op.operand());
        self.text.block(&match op.quantises() {
            true => format!(
                "li t3, LDSA
                 dma.q.rceil.{from}.{to} {channel}, t0, xsrc, depth, t2, t3, r0"
            ),
            false => format!("dma.{from}.{to} {channel}, t0, xsrc, depth"),
        });
        self.text.block(
            "prepared:
             sw count, 0(cp)
             addi xp, xp, 1          # the next, or the first
             slti t0, xp, PLACES
             mul xp, xp, t0
             ret",
        );
    }
}

/// The decisions in words.
fn describe(p: &Packing, chip: &Chip) -> Plan {
    let op = &p.op;
    let mut plan = Plan {
        op: op.to_string(),
        facts: Vec::new(),
        split_k: 1,
        split_depth: op.k,
        predicted_cycles: p.cycles(chip),
    };
    plan.fact(
        "grid",
        format!(
            "{} groups of {} tiles, {} columns each",
            p.groups, p.tiles, p.share
        ),
    );
    plan.fact(
        "panels",
        format!(
            "{} of {} columns, in {} chunks of K = {}: {} bytes in pieces of {}",
            p.panels,
            p.cols,
            p.chunks,
            p.kc,
            p.pieces.total(),
            p.pieces.bytes
        ),
    );
    plan.fact("ring", format!("{} slots of {} bytes", p.ring, p.slot));
    plan.fact(
        "jobs",
        format!("up to {} rows, {} at a time", p.most, p.slots),
    );
    plan.fact(
        "X",
        format!(
            "{} slices of {} elements, {} -> {}{}",
            p.slices,
            p.slice,
            op.input,
            op.operand(),
            if op.quantises() {
                " in blocks of 32 with scales"
            } else {
                ""
            }
        ),
    );
    plan.fact(
        "weights",
        format!("{} bytes for {}", p.bytes(), op.experts * op.expert_bytes()),
    );
    plan
}
