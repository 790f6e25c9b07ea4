//! The text of a grouped product of many rows.
//!
//! Models: four cursors over the jobs of a group: loads of weights, a ring ahead; parts of X, a few places ahead; products; rows of Y, behind.
//! Leaves out: as [`super`]. Invariants: a place of X is taken by the transfer itself when all tiles of the group are done with it; tables are
//! written anew when what read them has started, which the last transfer into the same place proves.

use super::super::TRAP;
use super::super::code::Split;
use super::super::plan::Packing;
use crate::chip::Chip;
use crate::compiler::emit::Text;
use crate::compiler::limits::Needs;
use crate::compiler::stage::{Site, Stage};
use crate::compiler::{CompileError, Plan};

/// Semaphores beside those of places.
pub(super) const SINGLE: u64 = 8;
/// Of each place for X: slices that are there; tiles that are done with it; this tile's rows are everywhere.
const OF_PLACE: u64 = 3;
/// Of places for Y.
pub(super) const OF_Y: u64 = 2;

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

pub(super) struct Emit<'a> {
    pub(super) p: &'a Packing,
    pub(super) site: &'a Site,
    pub(super) text: Text,
}

impl Emit<'_> {
    /// DMA channels of weights, of X and of Y.
    pub(super) fn channels(&self) -> [u64; 3] {
        [0, 1, 2].map(|c| self.site.dma(c))
    }

    /// Tiles of the chip.
    pub(super) fn all(&self) -> u64 {
        u64::from(self.site.chip.tiles())
    }

    /// Whether sums of a part wait in SRAM.
    fn rests(&self) -> bool {
        self.p.parts() > 1 && self.p.panels > 1
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
