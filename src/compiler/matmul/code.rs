//! The tile program of a matrix product: start, products, stores, loads.
//!
//! Models: three nested loops over products with a second cursor that runs `RING` chunks ahead and pushes the loads. Leaves
//! out: constants, tables and register names, which [`super`] emits before. Invariant: clauses are staged right before
//! the operation they belong to, with no other operation between.

use super::super::plan::Side;
use super::{Emit, Stream};

impl Emit<'_> {
    /// The whole program.
    pub(super) fn program(&mut self) {
        self.text.blank();
        self.text.directive(".tile");
        self.start();
        self.prime();
        self.products();
        self.store();
        self.push_load();
        if self.t.resident {
            self.push_resident();
        }
        self.ranges();
    }

    /// Finds the tile's place and starts both cursors.
    fn start(&mut self) {
        self.text.block(
            "rdsr t0, tile
             ldc t1, PLACE(t0)
             bge t1, r0, in_grid
             halt                    # no work for this tile
             in_grid:
             shri row, t1, 8
             andi col, t1, 0xff
             li left, ROW_PASSES * COL_PASSES * CHUNKS
             jal rb, load_pass",
        );
        if self.t.resident {
            self.text.block("li qmax, CHUNKS\njal rb, resident_pass");
        }
    }

    /// Fills the free counts of what this tile loads first, then pushes the first loads.
    fn prime(&mut self) {
        self.text.blank();
        self.text.block("# Everything is free at first: the first loader of each slot counts all sharers as done.");
        self.text.inst("rdsr t5, tile");
        for cbuf in 0..self.t.c_buffers {
            self.text.inst(&format!("sem.post t5, C_FREE + {cbuf}, 1"));
        }
        for side in [Side::A, Side::B] {
            let s = self.stream(side);
            if s.resident {
                let (name, member, sharers) = (s.name, s.member, s.sharers);
                self.text.block(&format!(
                    "mv t0, {member}
                     li t1, CHUNKS
                     prime_{name}:
                     bge t0, t1, primed_{name}
                     sem.post t5, {name}_FREE(t0), {sharers}
                     addi t0, t0, {sharers}
                     j prime_{name}
                     primed_{name}:"
                ));
            }
        }
        self.text.block("first_loads:");
        for side in [Side::A, Side::B] {
            let s = self.stream(side);
            if !s.resident {
                let (name, turn, member, sharers) = (s.name, s.turn, s.member, s.sharers);
                self.text.block(&format!(
                    "bne {turn}, {member}, not_mine_{name}
                     rdsr t5, tile
                     sem.post t5, {name}_FREE(slot), {sharers}
                     not_mine_{name}:"
                ));
            }
        }
        self.text.inst("jal ra, push_load");
        if self.t.resident {
            self.text.inst("jal ra, push_resident");
        }
        self.text
            .block("inc slot\nli t0, RING\nblt slot, t0, first_loads\nli slot, 0");
    }

    fn stream(&self, side: Side) -> &Stream {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }

    /// Streams that go through the ring.
    fn ring(&self) -> Vec<Side> {
        [Side::A, Side::B]
            .into_iter()
            .filter(|s| !self.t.is_resident(*s))
            .collect()
    }

    /// `OUTER` and `INNER` pass counts: names of the constants.
    fn pass_counts(&self) -> (&'static str, &'static str) {
        match self.t.outer {
            Side::A => ("ROW_PASSES", "COL_PASSES"),
            Side::B => ("COL_PASSES", "ROW_PASSES"),
        }
    }

    /// t3 = elements of K in chunk `index`; clobbers t4.
    fn depth(&mut self, index: &str) {
        if self.t.op.k.is_multiple_of(self.t.kc) {
            self.text.inst("li t3, CHUNK");
        } else {
            self.text.block(&format!(
                "li t3, CHUNK
                 mul t3, t3, {index}
                 li t4, DIM_K
                 sub t3, t4, t3
                 li t4, CHUNK
                 min t3, t3, t4          # the last chunk is short"
            ));
        }
    }

    /// Stages the signal that chunk `index` of a stream is free, to the member in `t0`; clobbers t0 and t1.
    fn signal_free(&mut self, side: Side, index: &str) {
        let s = self.stream(side);
        let (name, sharers) = (s.name, s.sharers);
        if sharers == 1 {
            self.text.inst(&format!("signal {name}_FREE({index}), 1"));
            return;
        }
        self.text.block(match side {
            Side::A => "muli t1, row, GRID_COLS\nadd t0, t0, t1",
            Side::B => "muli t0, t0, GRID_COLS\nadd t0, t0, col",
        });
        self.text.block(&format!(
            "ldc t0, GRID(t0)\nsignal.unit t0, {name}_FREE({index}), 1"
        ));
    }

    /// The three loops over products.
    fn products(&mut self) {
        let (outer, inner) = self.pass_counts();
        let (row_pass, col_pass) = if self.t.outer == Side::A {
            ("po", "pi")
        } else {
            ("pi", "po")
        };
        self.text.blank();
        self.text.block(&format!(
            "outer_pass:
             li pi, 0
             inner_pass:
             mv t0, {row_pass}
             jal rc, rows_of_pass
             mv mi, t1
             mv t0, {col_pass}
             jal rc, cols_of_pass
             mv nj, t1
             li pk, 0

             # One chunk: C[mi,nj] += A[mi,chunk] B[chunk,nj].
             chunk:"
        ));
        for side in self.ring() {
            let name = self.stream(side).name;
            self.text.inst(&format!("wait {name}_FULL(slot), 1"));
        }
        self.text
            .inst_c("beqz left, no_more_loads", "nobody will use the slot again");
        for side in self.ring() {
            let s = self.stream(side);
            let turn = s.turn;
            if s.sharers > 1 {
                self.text.inst(&format!("mv t0, {turn}"));
            }
            self.signal_free(side, "slot");
        }
        self.text.label("no_more_loads");
        if self.t.resident {
            let s = self.stream(self.t.outer);
            let (name, sharers) = (s.name, s.sharers);
            self.text.block(&format!(
                "bnez pi, arrived        # {name} stays for the outer pass
                 wait {name}_FULL(pk), 1
                 arrived:
                 li t0, {inner} - 1
                 bne pi, t0, kept
                 li t0, {outer} - 1
                 beq po, t0, kept        # last use in this pass: the next pass's chunk may come
                 addi qmax, qmax, 1
                 li t0, {sharers}
                 remu t0, pk, t0"
            ));
            self.signal_free(self.t.outer, "pk");
            self.text.label("kept");
        }
        for side in [Side::A, Side::B] {
            let s = self.stream(side);
            let (name, index) = (s.name, if s.resident { "pk" } else { "slot" });
            let to = if side == Side::A { "t1" } else { "t2" };
            self.text.block(&format!(
                "muli {to}, {index}, {name}_SLOT\nla t3, {name}_BUF\nadd {to}, {to}, t3"
            ));
        }
        self.depth("pk");
        self.accumulator();
        let dt = self.t.op.dtype;
        self.text.block(&format!(
            "li t4, A_LD
             li t5, B_LD
             bnez pk, accumulate
             mm.new.{dt}.{dt}.mk.kn t0, t1, t2, mi, nj, t3, t4, t5
             j pushed
             accumulate:
             mm.acc.{dt}.{dt}.mk.kn t0, t1, t2, mi, nj, t3, t4, t5
             pushed:
             jal ra, push_load"
        ));
        if self.t.resident {
            self.text.inst("jal ra, push_resident");
        }
        self.text.block(
            "inc slot
             li t0, RING
             blt slot, t0, in_ring
             li slot, 0
             in_ring:
             inc pk
             li t0, CHUNKS
             blt pk, t0, chunk",
        );
    }

    /// t0 = first accumulator block of this pass.
    fn accumulator(&mut self) {
        match self.t.acc_step(self.chip) {
            0 => self.text.inst("li t0, 0"),
            step => self.text.inst_c(
                &format!("muli t0, cbuf, {step}"),
                "passes alternate accumulators",
            ),
        }
    }

    /// t1 = this pass's C buffer; clobbers t2.
    fn c_buffer(&mut self) {
        self.text.inst("la t1, C_BUF");
        if self.t.c_buffers > 1 {
            self.text.block("muli t2, cbuf, C_SLOT\nadd t1, t1, t2");
        }
    }

    /// The end of a pass: store, send to HBM, next pass.
    fn store(&mut self) {
        let (outer, inner) = self.pass_counts();
        let (row_pass, col_pass) = if self.t.outer == Side::A {
            ("po", "pi")
        } else {
            ("pi", "po")
        };
        self.text.blank();
        self.text
            .block("# The pass is summed: round to BF16 into a C buffer, and from there to HBM.");
        self.c_buffer();
        self.accumulator();
        self.text.block(&format!(
            "li t2, C_LD
             wait C_FREE(cbuf), 1
             signal C_FULL(cbuf), 1
             mm.store.bf16 t0, t1, mi, nj, t2

             mv t0, {row_pass}
             jal rc, rows_of_pass
             li t1, C_ROW
             mul t5, t0, t1
             mv t0, {col_pass}
             jal rc, cols_of_pass
             shli t0, t0, 1          # two bytes an element
             add t5, t5, t0
             la t0, C
             add t5, t5, t0"
        ));
        self.c_buffer();
        let channel = 2.min(u64::from(self.chip.dma.channels).max(1) - 1);
        self.text.block(&format!(
            "li t3, C_ROW
             li t4, C_LD
             wait C_FULL(cbuf), 1
             signal C_FREE(cbuf), 1
             dim mi, t3, t4
             dma.bf16.bf16 {channel}, t5, t1, nj"
        ));
        if self.t.c_buffers > 1 {
            self.text.inst("xori cbuf, cbuf, 1");
        }
        self.text.block(&format!(
            "inc pi
             li t0, {inner}
             blt pi, t0, inner_pass
             inc po
             li t0, {outer}
             blt po, t0, outer_pass
             halt"
        ));
    }

    /// The transfer of a chunk: `index` is its slot or resident chunk, `depth` the register with its chunk of K.
    fn load(&mut self, side: Side, index: &str, depth: &str) {
        let s = self.stream(side);
        let (name, src, extent, sharers) = (s.name, s.src, s.extent, s.sharers);
        let (mask, mask_index, channels) = (s.mask, s.mask_index, s.channels.clone());
        self.text.block(&format!(
            "wait {name}_FREE({index}), {sharers}\nsignal.dest {name}_FULL({index}), 1"
        ));
        if sharers > 1 {
            self.text
                .block(&format!("ldc t0, {mask}({mask_index})\nmcast t0"));
        }
        self.depth(depth);
        self.text.block(&format!(
            "li t1, {name}_LD
             li t2, {name}_ROW
             dim {count}, t1, t2
             muli t1, {index}, {name}_SLOT
             la t2, {name}_BUF
             add t1, t1, t2",
            count = if side == Side::A { extent } else { "t3" },
        ));
        let dt = self.t.op.dtype;
        let len = if side == Side::A { "t3" } else { extent };
        match channels[..] {
            [one] => self
                .text
                .inst(&format!("dma.{dt}.{dt} {one}, t1, {src}, {len}")),
            _ => self.text.block(&format!(
                "andi t0, {index}, 1
                 bnez t0, odd_{name}
                 dma.{dt}.{dt} {}, t1, {src}, {len}
                 j even_{name}
                 odd_{name}:
                 dma.{dt}.{dt} {}, t1, {src}, {len}
                 even_{name}:",
                channels[0], channels[1]
            )),
        }
    }

    /// Points a stream's source at the first chunk of the pass in t0.
    fn point(&mut self, side: Side) {
        let element = self.t.element();
        self.text.block(&match side {
            Side::A => "jal rc, rows_of_pass\nmv lmi, t1\nli t1, A_ROW\nmul t0, t0, t1\nla t1, A\nadd asrc, t0, t1".to_owned(),
            Side::B => format!("jal rc, cols_of_pass\nmv lnj, t1\nmuli t0, t0, {element}\nla t1, B\nadd bsrc, t0, t1"),
        });
    }

    /// Subroutine: pushes the ring's next loads that are this tile's, and moves the cursor on.
    fn push_load(&mut self) {
        let (_, inner) = self.pass_counts();
        self.text.blank();
        self.text.block(
            "# Next chunk of the ring: load it if it is this tile's turn, and move on. Returns to ra.
             push_load:
             beqz left, loads_done
             addi left, left, -1",
        );
        for side in self.ring() {
            let s = self.stream(side);
            let (name, turn, member, src, sharers) = (s.name, s.turn, s.member, s.src, s.sharers);
            if sharers > 1 {
                self.text
                    .inst(&format!("bne {turn}, {member}, other_{name}"));
            }
            self.load(side, "slot", "lk");
            if sharers > 1 {
                self.text.block(&format!(
                    "other_{name}:
                     inc {turn}
                     li t0, {sharers}
                     blt {turn}, t0, turn_{name}
                     li {turn}, 0
                     turn_{name}:"
                ));
            }
            self.text
                .block(&format!("li t0, {name}_STEP\nadd {src}, {src}, t0"));
        }
        self.text.block(&format!(
            "inc lk
             li t0, CHUNKS
             blt lk, t0, loads_done
             li lk, 0
             inc lpi
             li t0, {inner}
             blt lpi, t0, same_outer
             li lpi, 0"
        ));
        if !self.t.resident {
            self.text.inst("inc lpo");
        }
        self.text
            .block("same_outer:\njal rb, load_pass\nloads_done:\njalr r0, 0(ra)");
        self.text.blank();
        self.text.block(
            "# Sources of the ring's loads at the start of their pass. Returns to rb.\nload_pass:",
        );
        for side in self.ring() {
            let pass = if self.t.outer == side { "lpo" } else { "lpi" };
            self.text.inst(&format!("mv t0, {pass}"));
            self.point(side);
        }
        self.text.inst("jalr r0, 0(rb)");
    }

    /// Subroutine: pushes the next load of the resident operand if its place is, or will be, free.
    fn push_resident(&mut self) {
        let (outer, _) = self.pass_counts();
        let side = self.t.outer;
        let s = self.stream(side);
        let (name, member, src, sharers) = (s.name, s.member, s.src, s.sharers);
        self.text.blank();
        self.text.block(&format!(
            "# Next chunk of the resident {name}, if its place is free or a pushed product frees it. Returns to ra.
             push_resident:
             bge q, qmax, resident_done"
        ));
        if sharers > 1 {
            self.text.block(&format!(
                "li t0, {sharers}\nremu t0, qk, t0\nbne t0, {member}, other_{name}"
            ));
        }
        self.load(side, "qk", "qk");
        if sharers > 1 {
            self.text.label(&format!("other_{name}"));
        }
        self.text.block(&format!(
            "li t0, {name}_STEP
             add {src}, {src}, t0
             inc q
             inc qk
             li t0, CHUNKS
             blt qk, t0, resident_done
             li qk, 0
             inc lpo
             li t0, {outer}
             bge lpo, t0, resident_done
             jal rb, resident_pass
             resident_done:
             jalr r0, 0(ra)

             # Source of the resident {name} at the start of an outer pass. Returns to rb.
             resident_pass:
             mv t0, lpo"
        ));
        self.point(side);
        self.text.inst("jalr r0, 0(rb)");
    }

    /// Subroutines: first row (column) and number of rows (columns) of a pass.
    fn ranges(&mut self) {
        for (what, one, place, unit, parts, extent) in [
            ("rows", "row", "row", "ROW", "GRID_ROWS", "DIM_M"),
            ("cols", "column", "col", "COL", "GRID_COLS", "DIM_N"),
        ] {
            self.text.blank();
            self.text.block(&format!(
                "# t0 = pass -> t0 = its first {one}, t1 = how many; clobbers t2 to t4. Returns to rc. The strip is units
                 # {place} * {unit}_UNITS / {parts} up to ({place} + 1) * {unit}_UNITS / {parts}. Longer passes come first, so
                 # that tiles which share chunks have theirs at the same time.
                 {what}_of_pass:
                 muli t1, {place}, {unit}_UNITS
                 li t4, {parts}
                 divu t1, t1, t4         # first unit of the strip
                 addi t2, {place}, 1
                 muli t2, t2, {unit}_UNITS
                 divu t2, t2, t4
                 sub t2, t2, t1          # its units
                 li t4, {unit}_PASSES
                 divu t3, t2, t4         # units of a pass; the first ones have one more,
                 remu t2, t2, t4         # so many
                 slt t4, t0, t2          # and this one, or not
                 min t2, t0, t2
                 mul t0, t0, t3
                 add t0, t0, t2
                 add t0, t0, t1          # first unit
                 add t1, t0, t3
                 add t1, t1, t4          # past the last
                 muli t0, t0, {unit}_UNIT
                 muli t1, t1, {unit}_UNIT
                 li t4, {extent}
                 min t1, t1, t4
                 sub t1, t1, t0
                 jalr r0, 0(rc)"
            ));
        }
    }
}
