//! The text of a grouped product of many rows.
//!
//! Models: four cursors over the jobs of a group: loads of weights, a ring ahead; parts of X, a few places ahead; products; rows of Y, behind.
//! Leaves out: as [`super`]. Invariants: a place of X is taken by the transfer itself when all tiles of the group are done with it; tables are
//! written anew when what read them has started, which the last transfer into the same place proves.

use super::super::TRAP;
use super::super::code::Split;
use super::super::plan::Packing;
use super::{block_bytes, control, own_rows, starts_bytes};
use crate::chip::Chip;
use crate::compiler::emit::{Text, TsramLayout};
use crate::compiler::limits::Needs;
use crate::compiler::stage::{Site, Stage};
use crate::compiler::{CompileError, Plan};

/// Semaphores beside those of places.
const SINGLE: u64 = 8;
/// Of each place for X: slices that are there; tiles that are done with it; this tile's rows are everywhere.
const OF_PLACE: u64 = 3;
/// Of places for Y.
const OF_Y: u64 = 2;

/// What a chip must have for it, beside SRAM.
pub(in super::super) fn needs(p: &Packing, chip: &Chip) -> Needs {
    Needs {
        semaphores: SINGLE + OF_Y + OF_PLACE * p.slots,
        counter: u64::from(chip.tiles()).max(p.ring).max(2 * p.panels),
        per_op: 2,
        ..Needs::default()
    }
}

/// As [`super::super::split`].
///
/// # Errors
/// A site that does not have what the plan takes.
pub(in super::super) fn split(
    p: &Packing,
    known: bool,
    at: u64,
    site: &Site,
) -> Result<Split, CompileError> {
    let plan = describe(p, &site.chip);
    let mut text = Text::default();
    text.comment(&plan.to_string());
    let mut emit = Emit { p, site, text };
    emit.tensors(at)?;
    emit.names();
    emit.start();
    match known {
        true => {
            emit.totals();
            emit.fill();
        }
        false => emit.sort(),
    }
    let early = std::mem::take(&mut emit.text).finish();
    if !known {
        emit.exchange();
        emit.totals();
        emit.fill();
    }
    for _ in 1..p.slots {
        emit.text.inst("jal ra, prepare");
    }
    emit.jobs();
    emit.band_end();
    emit.finish(known);
    emit.load();
    emit.write();
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

    /// Tiles of the chip.
    fn all(&self) -> u64 {
        u64::from(self.site.chip.tiles())
    }

    /// Whether sums of a part wait in SRAM.
    fn rests(&self) -> bool {
        self.p.parts() > 1 && self.p.panels > 1
    }

    fn tensors(&mut self, mut at: u64) -> Result<(), CompileError> {
        let (p, op) = (self.p, &self.p.op);
        let shapes = [
            (
                "x",
                op.input.name(),
                format!("{}, {}", op.rows / op.fan, op.k),
            ),
            ("ids", "i32", op.rows.to_string()),
            ("experts", "u8", p.bytes().to_string()),
            ("y", op.output.name(), format!("{}, {}", op.rows, op.n)),
        ];
        for ((name, dtype, shape), at) in shapes.into_iter().zip(&self.site.tensors) {
            let class = if name == "ids" { "control" } else { "payload" };
            self.text.directive(&format!(
                ".tensor grouped_{name}, hbm, {dtype}, [{shape}], {class}, at {at:#x}"
            ));
        }
        let places = p.places();
        let mut layout = TsramLayout::of(self.site);
        layout.place("xbuf", p.slots * places.x)?;
        layout.place("ybuf", places.ys * places.y)?;
        if places.partial > 0 {
            layout.place("resting", places.partial)?;
        }
        layout.place("ring", p.ring * p.slot)?;
        layout.declare(&mut self.text);
        for (name, words) in control(op, self.all()) {
            self.text.directive(&format!(
                ".tensor {name}, tsram, i32, [{words}], control, at {at:#x}"
            ));
            at += 4 * words;
        }
        Ok(())
    }

    fn names(&mut self) {
        let (p, op) = (self.p, &self.p.op);
        let first = self.site.semaphore;
        let places = p.places();
        let place = |n: u64| first + SINGLE + OF_Y + n * p.slots;
        for (name, value, comment) in [
            ("IDS", first, "semaphore: the own ids are there"),
            (
                "FULL",
                first + 1,
                "semaphore: chunks of weights that are there",
            ),
            ("FREE", first + 2, "semaphore: free slots of the ring"),
            ("SUMS", first + 3, "semaphore: panels of Y that are in SRAM"),
            (
                "REST",
                first + 4,
                "semaphore: panels of sums that rest in SRAM",
            ),
            (
                "LISTS",
                first + 5,
                "semaphore: blocks of rows by expert that are there",
            ),
            (
                "SPREAD",
                first + 6,
                "semaphore: the own block is everywhere",
            ),
            (
                "WRITTEN",
                first + 7,
                "semaphore: bands of Y that are written, for control: DONE is the tensor unit's",
            ),
            (
                "DONE",
                first + SINGLE,
                "semaphores, one per place: Y is written",
            ),
            (
                "XFULL",
                place(0),
                "semaphores, one per place: rows of X that are there, by tile",
            ),
            (
                "XFREE",
                place(1),
                "semaphores, one per place: tiles that are done with X",
            ),
            (
                "SENT",
                place(2),
                "semaphores, one per place: the own rows are everywhere",
            ),
            ("ROWS", op.rows, "ids"),
            ("OWN", own_rows(op, self.all()), "of them, of a tile"),
            (
                "BLOCK",
                block_bytes(op, self.all()),
                "bytes of a tile's rows by expert",
            ),
            ("ORDER", starts_bytes(op), "where the rows begin in it"),
            ("FAN", op.fan, "neighbours that share a row of X"),
            ("EXPERTS", op.experts, ""),
            ("GROUPS", p.groups, "of tiles"),
            ("TILES", p.tiles, "of a group"),
            ("K", op.k, ""),
            ("N", op.n, ""),
            ("DEPTH", p.depth.min(op.k), "of a part"),
            ("PARTS", p.parts(), ""),
            ("BANDS", p.bands, "of columns"),
            ("KC", p.kc, "of a chunk"),
            ("COLS", p.cols, "of a panel"),
            ("PANELS", p.panels, "of a band"),
            ("SUMS_OF", p.blocks(), "accumulators of a panel"),
            (
                "CHUNKS",
                p.bands * p.panels * p.chunks,
                "of a tile and expert",
            ),
            ("SHARE", p.share, "columns of a tile and band"),
            ("EXPERT", p.expert_bytes(), "bytes of an expert"),
            ("PIECES", p.pieces.count, "of a chunk"),
            ("PIECE", p.pieces.bytes, "bytes of one"),
            ("RING", p.ring, "slots"),
            ("SLOT", p.slot, "bytes of one"),
            ("MOST", p.most, "rows of a job"),
            ("PLACES", p.slots, "for parts of X"),
            ("TABLES", p.tables(), "of rows of jobs"),
            (
                "FROM",
                4 * super::TABLE_ROWS,
                "from the rows of Y to those of X",
            ),
            ("XBYTES", places.x, "of a place for rows of X"),
            ("XSCALES", places.scales, "where their scales begin"),
            ("YBYTES", places.y, "of a place for rows of Y"),
            ("YPLACES", places.ys, ""),
            ("LDA", p.lda, "bytes between rows of X"),
            ("LDSA", p.ldsa, "bytes between scales of X"),
            ("LDB", p.ldb(), "bytes between rows of a panel"),
            ("LDC", p.ldc, "bytes between rows of Y"),
            (
                "LDR",
                p.sums_pitch(),
                "bytes between rows of sums that rest",
            ),
            (
                "XLEFT",
                0,
                "of state: parts of the job in preparation to go",
            ),
            ("XPART", 8, "which is next in its band"),
            ("XROWS", 16, "rows of its expert in later jobs"),
            ("XCOUNT", 24, "its rows"),
            ("XTABLE", 32, "its table"),
            ("XBLOCK", 40, "the block its rows come from"),
            ("XHAS", 48, "rows of the expert in that block to go"),
            ("XAT", 56, "where the next lies"),
            ("TABLE", 64, "of the job"),
            ("YPLACE", 72, "of its sums"),
            ("YBEHIND", 80, "of those that are written"),
            ("BAND", 88, "bands to go"),
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
            ("wsrc", "this tile's first piece of expert 0"),
            ("lbuf", "slot that is loaded next"),
            ("le", "expert that is loaded"),
            ("lrows", "rows of it in later jobs"),
            ("lleft", "chunks of the job to load"),
            ("lat", "address of the next"),
            ("xe", "expert whose rows are prepared"),
            ("xp", "place that is prepared next"),
            ("place", "of the part"),
            ("count", "rows of the job"),
            ("buf", "slot of the next chunk"),
            ("left", "K of the panel to go"),
            ("pan", "panels to go"),
            ("ap", "rows of X from there on"),
            ("cp", "scratch"),
            ("acc", "accumulators"),
            ("part", "K before the part"),
            ("yrows", "rows of Y to write"),
            ("yat", "where the next one's number lies"),
            ("yfrom", "where it lies"),
            ("ydst", "the own columns of row 0 of Y"),
            ("valid", "their number"),
            ("base", "the part's rows of X"),
        ]);
    }

    /// What stays as it is.
    fn start(&mut self) {
        let p = self.p;
        let bit = |n: u64| (u64::MAX >> (64 - n)).cast_signed();
        self.text.directive(&format!(
            ".const grouped_masks, {}, {}",
            bit(p.tiles),
            bit(self.all())
        ));
        self.text.directive(".tile");
        self.text.block(
            "rdsr unit, tile
             li t0, TILES
             remu me, unit, t0
             divu le, unit, t0       # the group
             mul t0, t0, le
             ldc mask, grouped_masks(r0)
             shl mask, mask, t0
             sem.post unit, FREE, RING
             sem.post unit, WRITTEN, 2",
        );
        for n in 0..p.places().ys {
            self.text.inst(&format!("sem.post unit, DONE + {n}, 1"));
        }
        for n in 0..p.slots {
            self.text.block(&format!(
                "sem.post unit, SENT + {n}, 1
                 sem.post unit, XFREE + {n}, TILES"
            ));
        }
        self.text.block(
            "muli t0, me, PIECE
             la wsrc, grouped_experts
             add wsrc, wsrc, t0
             addi le, le, -GROUPS
             mv xe, le
             li lrows, 0
             li lleft, 0
             li xp, 0
             li place, 0
             li acc, 0
             li yrows, 0
             la lbuf, ring
             la buf, ring
             la cp, state
             sd r0, XLEFT(cp)
             sd r0, XPART(cp)
             sd r0, XROWS(cp)
             sd r0, XHAS(cp)
             sd r0, XAT(cp)
             sd r0, TABLE(cp)
             sd r0, YPLACE(cp)
             li t0, TABLES - 1
             sd t0, XTABLE(cp)       # the next is the first",
        );
    }

    /// The own block: first places by expert, then rows.
    fn sort(&mut self) {
        let [_, channel, _] = self.channels();
        self.text.block(&format!(
            "# This tile's ids, sorted by expert.
             la t0, own
             li t1, ORDER / 8
             clear:
             sd r0, 0(t0)
             addi t0, t0, 8
             dec t1
             bnez t1, clear
             muli t1, unit, OWN
             li count, ROWS
             sub count, count, t1
             li t0, OWN
             min count, count, t0
             max count, count, r0
             beqz count, sorted      # no ids are left for this tile
             shli t1, t1, 2
             la t2, grouped_ids
             add t1, t1, t2
             la t0, own_ids
             signal IDS, 1
             dma.i32.i32 {channel}, t0, t1, count
             sem.wait IDS, 1
             # How many each has, one word on.
             li ap, EXPERTS
             la cp, own + 4
             mv left, count
             tally:
             lw t1, 0(t0)
             bgeu t1, ap, no_expert
             shli t1, t1, 2
             add t1, t1, cp
             lw t2, 0(t1)
             addi t0, t0, 4
             addi t2, t2, 1
             sw t2, 0(t1)
             dec left
             bnez left, tally
             # Where each begins.
             la t0, own
             la t1, cursors
             li left, EXPERTS
             li t3, 0
             begins:
             lw t2, 4(t0)
             sw t3, 0(t1)
             add t3, t3, t2
             sw t3, 4(t0)
             addi t0, t0, 4
             addi t1, t1, 4
             dec left
             bnez left, begins
             # Each row to the next place of its expert.
             muli t3, unit, OWN
             la t0, own_ids
             la ap, own + ORDER
             la cp, cursors
             mv left, count
             in_order:
             lw t1, 0(t0)
             shli t1, t1, 2
             add t1, t1, cp
             lw t2, 0(t1)
             addi t0, t0, 4
             shli pan, t2, 2
             addi t2, t2, 1
             sw t2, 0(t1)
             add pan, pan, ap
             sw t3, 0(pan)
             addi t3, t3, 1
             dec left
             bnez left, in_order
             sorted:"
        ));
    }

    /// Every tile's block to all tiles.
    fn exchange(&mut self) {
        let [_, channel, _] = self.channels();
        let all = self.all();
        self.text.block(&format!(
            "muli t0, unit, BLOCK
             la t1, blocks
             add t1, t1, t0
             la t0, own
             li t2, 1
             ldc t3, grouped_masks(t2)
             addi t2, count, ORDER / 4 # no more rows than it has
             signal.dest LISTS, 1
             signal SPREAD, 1
             mcast t3
             dma.i32.i32 {channel}, t1, t0, t2
             sem.wait LISTS, {all}"
        ));
    }

    /// Rows of each expert of this group.
    fn totals(&mut self) {
        let block = block_bytes(&self.p.op, self.all());
        self.text.block(
            "mv ap, le
             total:
             addi ap, ap, GROUPS
             li t0, EXPERTS
             bge ap, t0, counted
             shli t0, ap, 2
             la t1, blocks
             add t1, t1, t0
             la cp, totals
             add cp, cp, t0
             li t0, 0",
        );
        for tile in 0..self.all() {
            let (at, after) = (tile * block, tile * block + 4);
            self.text.block(&format!(
                "lw t2, {at}(t1)
                 lw t3, {after}(t1)
                 sub t3, t3, t2
                 add t0, t0, t3"
            ));
        }
        self.text.block("sw t0, 0(cp)\nj total\ncounted:");
    }

    /// The first loads of weights.
    fn fill(&mut self) {
        self.text.block(
            "li left, RING
             fill:
             jal ra, load
             dec left
             bnez left, fill",
        );
    }

    /// The jobs.
    fn jobs(&mut self) {
        let p = self.p;
        let (a, w, y) = (p.op.operand(), p.op.weights, p.op.output);
        self.text.block(
            "job:
             la cp, state
             ld t0, TABLE(cp)
             shli t0, t0, 2
             la t1, counts
             add t1, t1, t0
             lw count, 0(t1)
             beqz count, finish
             li t0, BANDS
             sd t0, BAND(cp)
             band:
             li part, 0
             next_part:
             jal ra, prepare         # a later part, into the place of the one before
             muli base, place, XBYTES
             la t0, xbuf
             add base, base, t0",
        );
        if p.places().ys == 1 {
            // Its sums go where those of the last band are.
            self.text.block(
                "addi t0, part, DEPTH
                 li t1, K
                 blt t0, t1, goes_on
                 jal ra, flush
                 goes_on:",
            );
        }
        self.text.block(
            "li pan, PANELS
             wait XFULL(place), TILES
             panel:
             li left, K
             sub left, left, part
             li t0, DEPTH
             min left, left, t0
             mv ap, base
             chunk:
             li t3, KC
             min t3, t3, left        # the last chunk may be short
             wait FULL, 1
             signal FREE, 1
             bne left, t3, not_last
             li t0, 1
             bne pan, t0, not_last
             signal.tiles mask, XFREE(place), 1
             not_last:",
        );
        if w.scaled() {
            let scales = p.scales_at();
            match p.op.quantises() {
                // The scales of block j of the part are j * LDSA behind their first; operands have a byte.
                true => self.text.block(&format!(
                    "sub t0, ap, base
                     shri t0, t0, 5
                     muli t0, t0, LDSA
                     add t0, t0, base
                     addi t0, t0, XSCALES
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
             sub ra, ap, base
             or ra, ra, part
             bnez ra, go_on
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
             jal ra, write
             bnez left, chunk",
            b = w.dtype,
            size = a.bits() / 8,
        ));
        if self.rests() {
            // The next panel's sums come back beside this one's products: to the accumulators that are free.
            self.text.block(
                "li t0, PANELS + 1
                 sub t0, t0, pan
                 muli t0, t0, COLS * 4
                 li t1, 1
                 beq pan, t1, last_panel
                 beqz part, no_rest      # the first part has none
                 j rest
                 last_panel:
                 li t0, 0
                 addi t1, part, DEPTH
                 li t2, K
                 bge t1, t2, no_rest
                 rest:
                 la t1, resting
                 add t0, t0, t1
                 xori t1, acc, SUMS_OF
                 li t2, COLS
                 li t3, LDR
                 wait REST, 1
                 mm.load t1, t0, count, t2, t3
                 no_rest:",
            );
        }
        if p.parts() > 1 {
            self.text.block(
                "addi t0, part, DEPTH
                 li t1, K
                 bge t0, t1, whole",
            );
            if self.rests() {
                self.text.block(
                    "li t0, PANELS
                     sub t0, t0, pan
                     muli t0, t0, COLS * 4
                     la t1, resting
                     add t0, t0, t1
                     li t2, COLS
                     li t3, LDR
                     signal REST, 1
                     mm.store.f32 acc, t0, count, t2, t3
                     xori acc, acc, SUMS_OF",
                );
            }
            self.text.block("j stored\nwhole:");
        }
        self.text.block(&format!(
            "li t0, PANELS
             sub t0, t0, pan
             muli t0, t0, COLS * {out}
             la t1, ybuf
             add t0, t0, t1
             la cp, state
             ld t1, YPLACE(cp)
             muli t2, t1, YBYTES
             add t0, t0, t2
             li t2, PANELS
             bne pan, t2, not_first
             wait DONE(t1), 1
             not_first:
             li t2, COLS
             li t3, LDC
             signal SUMS, 1
             mm.store.{y} acc, t0, count, t2, t3
             xori acc, acc, SUMS_OF
             stored:
             dec pan
             bnez pan, panel
             addi place, place, 1    # the next, or the first: place < PLACES ? place : 0
             slti t0, place, PLACES
             mul place, place, t0
             addi part, part, DEPTH
             li t0, K
             blt part, t0, next_part",
            out = y.bits() / 8,
        ));
    }

    /// The end of a band: its rows of Y are those that are written from now on. The first of them waits for the sums, on a channel in order.
    fn band_end(&mut self) {
        let out = u64::from(self.p.op.output.bits() / 8);
        self.text.block(&format!(
            "jal ra, flush           # the rest of the band before
             sem.wait WRITTEN, 1     # the one before that
             la cp, state
             li t0, BANDS
             ld t1, BAND(cp)
             sub t0, t0, t1
             addi t1, t1, -1
             sd t1, BAND(cp)
             muli t0, t0, TILES
             add t0, t0, me
             muli t0, t0, SHARE
             li valid, N
             sub valid, valid, t0
             li t1, SHARE
             min valid, valid, t1
             muli t0, t0, {out}
             la ydst, grouped_y
             add ydst, ydst, t0
             ld t1, YPLACE(cp)
             sd t1, YBEHIND(cp)
             addi t0, t1, 1
             slti t2, t0, YPLACES
             mul t0, t0, t2
             sd t0, YPLACE(cp)
             blez valid, no_columns
             mv yrows, count
             muli yfrom, t1, YBYTES
             la t0, ybuf
             add yfrom, yfrom, t0
             ld t0, TABLE(cp)
             muli t0, t0, 4 * MOST
             la yat, rows_of
             add yat, yat, t0
             li t3, 0
             addi yrows, yrows, -1
             wait SUMS, PANELS
             jal ra, write_row
             j next_band
             no_columns:
             sem.wait SUMS, PANELS
             sem.post unit, DONE(t1), 1
             sem.post unit, WRITTEN, 1
             next_band:
             la cp, state
             ld t0, BAND(cp)
             bnez t0, band
             ld t0, TABLE(cp)
             addi t0, t0, 1
             slti t1, t0, TABLES
             mul t0, t0, t1
             sd t0, TABLE(cp)
             j job"
        ));
    }

    fn finish(&mut self, known: bool) {
        let p = self.p;
        self.text.block(&format!(
            "no_expert:
             trap {TRAP}                # an id outside 0 .. EXPERTS
             # Whoever gives the last tokens back is done.
             finish:
             jal ra, flush"
        ));
        if !self.site.chained {
            self.text.inst("halt");
            return;
        }
        if !known {
            self.text.inst("sem.wait SPREAD, 1");
        }
        // Every product is done before control takes what they would wait for.
        self.text.inst("sem.wait WRITTEN, 2");
        for n in 0..p.places().ys {
            self.text.inst(&format!("sem.wait DONE + {n}, 1"));
        }
        for n in 0..p.slots {
            self.text.block(&format!(
                "sem.wait SENT + {n}, 1
                 sem.wait XFREE + {n}, TILES"
            ));
        }
        self.text.block("sem.wait FREE, RING\nj grouped_end");
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
             shli t0, le, 2
             la t1, totals
             add t0, t0, t1
             lw lrows, 0(t0)
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

    /// Subroutines: some rows of Y, or all that are left; clobber t0 to t3 and cp.
    fn write(&mut self) {
        let p = self.p;
        let y = p.op.output;
        let [_, _, channel] = self.channels();
        // Those of a band while the next is multiplied; its last part may need their place.
        let parts = if p.places().ys == 1 { p.parts() - 1 } else { 1 };
        let chunks = (p.panels * p.chunks * parts / p.parts()).max(1);
        self.text.block(&format!(
            "write:
             beqz yrows, wrote
             li t3, {each}
             min t3, t3, yrows
             sub yrows, yrows, t3
             dec t3
             write_row:              # t3: rows after this one
             li t2, {pitch}
             next_row:
             lw t0, 0(yat)
             addi yat, yat, 4
             mul t0, t0, t2
             add t0, t0, ydst
             or t1, t3, yrows
             bnez t1, more_rows
             la cp, state
             ld t1, YBEHIND(cp)
             signal DONE(t1), 1
             signal WRITTEN, 1
             more_rows:
             dma.{y}.{y} {channel}, t0, yfrom, valid
             addi yfrom, yfrom, LDC
             addi t3, t3, -1
             bge t3, r0, next_row
             wrote:
             ret
             flush:
             beqz yrows, wrote
             addi t3, yrows, -1
             li yrows, 0
             j write_row",
            each = p.most.div_ceil(chunks),
            pitch = p.op.n * u64::from(y.bits()) / 8,
        ));
    }

    /// Subroutine: the next part of X, and if it is the first of a job, the job's tables; clobbers t0 to t3, ap, cp, left and pan.
    fn prepare(&mut self) {
        let p = self.p;
        let op = &p.op;
        let [_, channel, _] = self.channels();
        self.text.block(
            "prepare:
             la cp, state
             ld t0, XLEFT(cp)
             bgtz t0, prepare_part
             # The next table is that of the next job, or has no rows.
             ld t0, XTABLE(cp)
             addi t0, t0, 1
             slti t1, t0, TABLES
             mul t0, t0, t1
             shli t2, t0, 2
             la t3, counts
             add t2, t2, t3
             sw r0, 0(t2)
             muli ap, t0, 4 * MOST
             la t1, rows_of
             add ap, ap, t1
             ld left, XROWS(cp)
             bgtz left, prepare_job
             prepare_find:
             addi xe, xe, GROUPS
             li t1, EXPERTS
             bge xe, t1, no_job
             shli t1, xe, 2
             la t3, totals
             add t1, t1, t3
             lw left, 0(t1)
             beqz left, prepare_find
             la t1, blocks - BLOCK
             sd t1, XBLOCK(cp)
             sd r0, XHAS(cp)
             prepare_job:
             sd t0, XTABLE(cp)
             li pan, MOST
             min pan, pan, left
             sw pan, 0(t2)
             sd pan, XCOUNT(cp)
             sub left, left, pan
             sd left, XROWS(cp)
             # Its rows, from one block after the other.
             ld t2, XHAS(cp)
             ld t3, XAT(cp)
             rows_more:
             bnez t2, rows_some
             ld t0, XBLOCK(cp)
             addi t0, t0, BLOCK
             sd t0, XBLOCK(cp)
             shli t1, xe, 2
             add t1, t1, t0
             lw t3, 0(t1)
             lw t2, 4(t1)
             sub t2, t2, t3
             shli t3, t3, 2
             addi t3, t3, ORDER
             add t3, t3, t0
             j rows_more
             rows_some:
             min left, t2, pan
             sub t2, t2, left
             sub pan, pan, left
             li t1, FAN
             row:
             lw t0, 0(t3)
             addi t3, t3, 4
             sw t0, 0(ap)",
        );
        if op.fan > 1 {
            self.text.block("divu t0, t0, t1\nsw t0, FROM(ap)");
        }
        let table = if op.fan > 1 { "from_of" } else { "rows_of" };
        let row = op.input.bytes_for(op.k);
        self.text.block(&format!(
            "addi ap, ap, 4
             dec left
             bnez left, row
             bnez pan, rows_more
             sd t2, XHAS(cp)
             sd t3, XAT(cp)
             li t0, PARTS * BANDS
             prepare_part:
             addi t0, t0, -1
             sd t0, XLEFT(cp)
             ld t1, XPART(cp)
             addi t2, t1, 1
             slti t3, t2, PARTS
             mul t2, t2, t3
             sd t2, XPART(cp)
             muli t1, t1, DEPTH
             li left, K
             sub left, left, t1
             li t2, DEPTH
             min left, left, t2
             muli t1, t1, {input}
             la pan, grouped_x
             add pan, pan, t1
             # Equal runs of rows for the tiles; the last may have none.
             ld t2, XCOUNT(cp)
             addi t3, t2, TILES - 1
             li t0, TILES
             divu t3, t3, t0
             mul t0, me, t3
             sub t2, t2, t0
             min t2, t2, t3
             sem.wait SENT(xp), 1
             blez t2, no_rows
             ld t3, XTABLE(cp)
             muli t3, t3, 4 * MOST
             la ap, {table}
             add ap, ap, t3
             shli t3, t0, 2
             add ap, ap, t3
             muli cp, xp, XBYTES
             la t3, xbuf
             add cp, cp, t3
             addi t3, t0, XSCALES
             add t3, t3, cp
             muli t0, t0, LDA
             add cp, cp, t0
             wait XFREE(xp), TILES
             signal.dest XFULL(xp), 1
             signal SENT(xp), 1
             mcast mask
             li t0, LDA
             dim t2, t0, r0
             li t0, {row}
             gather ap, t0",
            input = op.input.bits() / 8,
        ));
        let (from, to) = (op.input, op.operand());
        self.text.block(&match op.quantises() {
            true => format!(
                "li t0, LDSA
                 dma.q.rceil.{from}.{to} {channel}, cp, pan, left, t3, t0, r0"
            ),
            false => format!("dma.{from}.{to} {channel}, cp, pan, left"),
        });
        self.text.block(
            "prepared:
             addi xp, xp, 1          # the next, or the first
             slti t0, xp, PLACES
             mul xp, xp, t0
             no_job:
             ret
             # The others count on this tile, too.
             no_rows:
             sem.wait XFREE(xp), TILES
             sub t0, unit, me
             li t1, TILES
             tell:
             sem.post t0, XFULL(xp), 1
             addi t0, t0, 1
             dec t1
             bnez t1, tell
             sem.post unit, SENT(xp), 1
             j prepared",
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
        predicted_cycles: p.sorted_cycles(chip, op.rows.div_ceil(op.used())),
    };
    plan.fact(
        "grid",
        format!(
            "{} groups of {} tiles, {} bands of {} columns each, rows sorted together",
            p.groups, p.tiles, p.bands, p.share
        ),
    );
    plan.fact(
        "panels",
        format!(
            "{} of {} columns, in chunks of K = {}: {} bytes in pieces of {}",
            p.panels,
            p.cols,
            p.kc,
            p.pieces.total(),
            p.pieces.bytes
        ),
    );
    plan.fact("ring", format!("{} slots of {} bytes", p.ring, p.slot));
    plan.fact(
        "X",
        format!(
            "up to {} rows, {} parts of K = {}, {} at a time, {} -> {}{}",
            p.most,
            p.parts(),
            p.depth,
            p.slots,
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
