//! Which rows a job has, in the text of a grouped product of many rows.
//!
//! Models: the tile's own ids in the order of experts, the exchange of blocks, the numbers of rows, the tables of a job and the transfers of its rows
//! of X. Leaves out: products. Invariant: what a tile reads of a block its owner has written.

use super::block_bytes;
use super::code::Emit;

impl Emit<'_> {
    /// The own block: first places by expert, then rows.
    pub(super) fn sort(&mut self) {
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
    pub(super) fn exchange(&mut self) {
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
    pub(super) fn totals(&mut self) {
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

    /// Subroutine: the next part of X, and if it is the first of a job, the job's tables; clobbers t0 to t3, ap, cp, left and pan.
    pub(super) fn prepare(&mut self) {
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
