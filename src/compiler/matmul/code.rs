//! The tile program of a matrix product: start, products, stores; the loads are in [`super::loads`].
//!
//! Models: three nested loops over products with a second cursor that runs `RING` chunks ahead and pushes the loads. Leaves
//! out: constants, tables and register names, which [`super`] emits before. Invariant: clauses are staged right before
//! the operation they belong to, with no other operation between.

use super::super::plan::Side;
use super::{Emit, Stream};
use crate::compiler::emit::Text;
use crate::compiler::epilogue::fused;
use crate::compiler::rowwise::{Spread, layout::ELEMENT};
use crate::num::Dtype;

/// Registers that a program finds at zero, where the loops begin.
const STARTS_AT_ZERO: [&str; 10] = [
    "po", "slot", "cbuf", "lpo", "lpi", "lk", "xa", "xb", "q", "qk",
];

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
        self.site.end(&mut self.text);
    }

    /// Finds the tile's place and starts both cursors.
    fn start(&mut self) {
        self.text.block(&format!(
            "rdsr t0, tile
             ldc t1, PLACE(t0)
             bge t1, r0, in_grid
             {leave}                    # no work for this tile
             in_grid:
             shri row, t1, 8
             andi col, t1, 0xff
             li left, ROW_PASSES * COL_PASSES * CHUNKS",
            leave = self.site.leave()
        ));
        if self.site.chained {
            self.text.clear(&STARTS_AT_ZERO);
        }
        self.text.inst("jal rb, load_pass");
        if self.epilogue.has_kernel() && self.epilogue.program().is_none() {
            self.text
                .block("# The tensor scales, for the epilogue.\nli t2, 1");
            for (i, side) in ["A", "B"].into_iter().enumerate() {
                let channel = self.c_channel();
                self.text.block(&format!(
                    "la t0, FACTORS + {}
                     la t1, {side}_tensor_scale
                     signal FACTORS_FULL, 1
                     dma.f32.f32 {channel}, t0, t1, t2",
                    4 * i
                ));
            }
        }
        if self.t.resident {
            self.text.block("li qmax, CHUNKS\njal rb, resident_pass");
        }
        if self.ahead() {
            self.text
                .block("# The first pass's operands beside A and B.\nli t5, 0\nli ra, 0");
            self.pass_of_operands();
            self.load_operands();
        }
    }

    /// Whether the operands of a kernel are loaded a pass ahead of it.
    fn ahead(&self) -> bool {
        self.epilogue.program().is_some() && self.t.c_buffers > 1
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

    pub(super) fn stream(&self, side: Side) -> &Stream {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }

    /// Streams that go through the ring.
    pub(super) fn ring(&self) -> Vec<Side> {
        [Side::A, Side::B]
            .into_iter()
            .filter(|s| !self.t.is_resident(*s))
            .collect()
    }

    /// `OUTER` and `INNER` pass counts: names of the constants.
    pub(super) fn pass_counts(&self) -> (&'static str, &'static str) {
        match self.t.outer {
            Side::A => ("ROW_PASSES", "COL_PASSES"),
            Side::B => ("COL_PASSES", "ROW_PASSES"),
        }
    }

    /// t3 = elements of K in chunk `index`; clobbers t4.
    pub(super) fn depth(&mut self, index: &str) {
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
            let s = self.stream(side);
            let (name, parts) = (s.name, s.parts());
            self.text.inst(&format!("wait {name}_FULL(slot), {parts}"));
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
            let (name, sharers, parts) = (s.name, s.sharers, s.parts());
            self.text.block(&format!(
                "bnez pi, arrived        # {name} stays for the outer pass
                 wait {name}_FULL(pk), {parts}
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
        self.stage_scales();
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
        let (ta, tb) = self.t.op.dtype.dtypes();
        self.text.block(&format!(
            "li t4, A_LD
             li t5, B_LD
             bnez pk, accumulate
             mm.new.{ta}.{tb}.mk.kn t0, t1, t2, mi, nj, t3, t4, t5
             j pushed
             accumulate:
             mm.acc.{ta}.{tb}.mk.kn t0, t1, t2, mi, nj, t3, t4, t5
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

    /// Stages the block scales of the product; clobbers t0 to t4.
    fn stage_scales(&mut self) {
        let (a, b) = self.t.op.dtype.operands();
        if !a.scaled() && !b.scaled() {
            return;
        }
        for (side, to, ld) in [(Side::A, "t0", "t1"), (Side::B, "t2", "t3")] {
            let s = self.stream(side);
            let (name, index) = (s.name, if s.resident { "pk" } else { "slot" });
            if s.operand.scaled() {
                self.text.block(&format!(
                    "muli {to}, {index}, {name}_SCALE_SLOT
                     la t4, {name}_SCALE_BUF
                     add {to}, {to}, t4
                     li {ld}, {name}_SCALE_LD"
                ));
            }
        }
        self.text.inst(&format!(
            "mm.scale.{}.{} t0, t1, t2, t3",
            a.scale_name(),
            b.scale_name()
        ));
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

    /// DMA channel of C.
    fn c_channel(&self) -> u64 {
        self.site.dma(2)
    }

    /// Runs the kernel over this pass's C buffer, which is in t1; clobbers t0 to t5.
    fn run_epilogue(&mut self) {
        let lanes = self.chip.tvp.lanes_32;
        self.text.block(&format!(
            "mv t0, t1
             mv t1, mi
             mv t2, nj
             addi t3, nj, {}
             li t4, {lanes}
             divu t3, t3, t4         # vectors of a row
             la t4, FACTORS
             add t5, po, pi
             bnez t5, have_factors   # the first kernel waits for the tensor scales
             wait FACTORS_FULL, 2
             have_factors:
             wait C_FULL(cbuf), 1
             signal C_DONE(cbuf), 1
             vrun {}, t0, 5",
            lanes.saturating_sub(1),
            super::super::epilogue::KERNEL
        ));
    }

    /// Loads the operands of the next pass's kernel, if there is one.
    fn next_operands(&mut self) {
        let (outer, inner) = self.pass_counts();
        self.text.block(&format!(
            "# What the next pass's kernel needs beside the sums.
             mv ra, po
             addi t5, pi, 1
             li t0, {inner}
             blt t5, t0, same_pass
             li t5, 0
             inc ra
             same_pass:
             li t0, {outer}
             bge ra, t0, no_more_operands
             xori cbuf, cbuf, 1"
        ));
        self.pass_of_operands();
        self.load_operands();
        self.text.block("xori cbuf, cbuf, 1\nno_more_operands:");
    }

    /// First row in ra, rows in mi, first column in rb, columns in nj of the pass with the outer one in ra and the inner one in t5.
    /// Clobbers t0 to t5 and rc.
    fn pass_of_operands(&mut self) {
        let outer = self.t.outer == Side::A;
        let (row, col) = if outer { ("ra", "t5") } else { ("t5", "ra") };
        self.text.block(&format!(
            "mv t0, {col}
             mv t5, {row}
             jal rc, cols_of_pass
             mv rb, t0
             mv nj, t1
             mv t0, t5
             jal rc, rows_of_pass
             mv ra, t0
             mv mi, t1"
        ));
    }

    /// Loads the operands of a pass's kernel, the pass as [`Emit::pass_of_operands`] leaves it, into the places that go with the C buffer.
    /// They need no wait: the last transfer of C from that buffer starts earlier in the same channel, and it waits for the kernel that
    /// read their places. Clobbers t0 to t4.
    fn load_operands(&mut self) {
        let buffers = self.t.c_buffers;
        let Some(fused) = self.epilogue.program() else {
            return;
        };
        let places = fused.places(self.t.rows.pass(), self.t.cols.pass());
        let (channel, text) = (self.site.dma(2), &mut self.text);
        for (input, at) in fused.operands().iter().zip(&places.inputs[1..]) {
            let size = u64::from(input.dtype.bits() / 8);
            let cols = fused.program().cols;
            text.block(&format!("la t0, FACTORS + {at}\nla t1, {}", input.name));
            if buffers > 1 {
                text.block(&format!("muli t2, cbuf, {}\nadd t0, t0, t2", places.bytes));
            }
            let mut shifted = |register: &str, bytes: u64| {
                text.block(&format!(
                    "li t2, {bytes}
                     mul t2, t2, {register}
                     add t1, t1, t2"
                ));
            };
            let (rows, len) = match input.spread {
                Spread::Full => {
                    let far = size * input.pitch.unwrap_or(cols);
                    shifted("ra", far);
                    shifted("rb", size);
                    text.block(&format!("li t2, {}\nli t3, {far}", places.row));
                    (true, "nj")
                }
                Spread::PerRow => {
                    let far = size * input.pitch.unwrap_or(1);
                    shifted("ra", far);
                    if far > size {
                        text.block(&format!("li t2, {ELEMENT}\nli t3, {far}\nli t4, 1"));
                    }
                    (far > size, if far > size { "t4" } else { "mi" })
                }
                Spread::PerColumn => {
                    shifted("rb", size);
                    (false, "nj")
                }
                Spread::Scalar => {
                    text.inst("li t4, 1");
                    (false, "t4")
                }
            };
            text.inst("signal C_FULL(cbuf), 1");
            if rows {
                text.inst("dim mi, t2, t3");
            }
            text.inst(&format!("dma.{}.f32 {channel}, t0, t1, {len}", input.dtype));
        }
    }

    /// Runs the program over this pass's C buffer; clobbers t0 to t5 and rc.
    fn run_fused(&mut self) {
        let Some(fused) = self.epilogue.program() else {
            return;
        };
        let ((fill, turns), operands) = (fused.counts(), fused.operands().len());
        let bytes = fused.places(self.t.rows.pass(), self.t.cols.pass()).bytes;
        let lanes = self.chip.tvp.lanes_32;
        self.c_buffer();
        self.text.block(&format!(
            "mv t0, t1
             li t1, 0                # passes of the pipeline over rows,
             mv t5, mi               # and rows that fill none
             li rc, {least}
             blt mi, rc, few_rows
             addi t5, mi, -{fill}
             li rc, {turns}
             divu t1, t5, rc
             remu t5, t5, rc
             few_rows:
             mv t2, nj
             addi t3, nj, {}
             li t4, {lanes}
             divu t3, t3, t4         # vectors of a row
             la t4, FACTORS
             muli rc, cbuf, {bytes}
             add t4, t4, rc
             wait C_FULL(cbuf), {}
             signal C_DONE(cbuf), 1
             vrun {}, t0, 6",
            lanes.saturating_sub(1),
            1 + operands,
            fused::KERNEL,
            least = fill + turns,
        ));
    }

    /// The end of a pass: store, epilogue, send to HBM, next pass.
    fn store(&mut self) {
        let (outer, inner) = self.pass_counts();
        let (row_pass, col_pass) = if self.t.outer == Side::A {
            ("po", "pi")
        } else {
            ("pi", "po")
        };
        self.text.blank();
        let out = self.epilogue.out;
        self.text.block(match out {
            _ if self.epilogue.program().is_some() => "# The pass is summed: store it in a C buffer for the kernel, and from there to HBM.",
            Dtype::Bf16 => "# The pass is summed: store it in a C buffer, as BF16 or for the epilogue, and from there to HBM.",
            _ => "# The pass is summed: store it in a C buffer, and from there to HBM.",
        });
        self.c_buffer();
        self.accumulator();
        self.text.block(&format!(
            "li t2, C_LD
             wait C_FREE(cbuf), 1
             signal C_FULL(cbuf), 1
             mm.store.{store} t0, t1, mi, nj, t2",
            store = self.epilogue.store_type()
        ));
        let fused = self.epilogue.program().is_some();
        let stored = match self.epilogue.has_kernel() {
            true if fused => {
                if self.ahead() {
                    self.next_operands();
                }
                self.text.block("mv t5, pi\nmv ra, po");
                self.pass_of_operands();
                if !self.ahead() {
                    self.load_operands();
                }
                self.run_fused();
                "C_DONE"
            }
            true => {
                self.run_epilogue();
                "C_DONE"
            }
            false => "C_FULL",
        };
        self.text.blank();
        let columns = format!(
            "shli t0, t0, {shift}          # {bytes} an element
             add t5, t5, t0
             la t0, C
             add t5, t5, t0",
            shift = self.epilogue.out_bytes().ilog2(),
            bytes = match self.epilogue.out_bytes() {
                1 => "one byte",
                2 => "two bytes",
                _ => "four bytes",
            }
        );
        self.text.block(&match fused {
            true => format!("li t1, C_ROW\nmul t5, ra, t1\nmv t0, rb\n{columns}"),
            false => format!(
                "mv t0, {row_pass}
                 jal rc, rows_of_pass
                 li t1, C_ROW
                 mul t5, t0, t1
                 mv t0, {col_pass}
                 jal rc, cols_of_pass
                 {columns}"
            ),
        });
        self.c_buffer();
        let channel = self.c_channel();
        self.text.block(&format!(
            "li t3, C_ROW
             li t4, C_LD
             wait {stored}(cbuf), 1
             signal C_FREE(cbuf), 1"
        ));
        if self.site.chained {
            self.text.block(&format!(
                "li t0, {inner} - 1
                 bne pi, t0, more_passes
                 li t0, {outer} - 1
                 bne po, t0, more_passes
                 signal ENDED, 1
                 more_passes:"
            ));
        }
        self.text.block(&format!(
            "dim mi, t3, t4
             dma.{staged}.{out} {channel}, t5, t1, nj",
            staged = self.epilogue.staged_type()
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
             blt po, t0, outer_pass"
        ));
        // The last transfer of C follows all products and stores, and these all loads.
        let buffers = (0..self.t.c_buffers).map(|i| (format!("C_FREE + {i}"), 1));
        let held: Vec<_> = [("ENDED".to_owned(), 1)]
            .into_iter()
            .chain(buffers)
            .collect();
        self.site.drain(&mut self.text, &held);
        self.text.inst(self.site.leave());
    }

    /// Subroutines: first row (column) and number of rows (columns) of a pass.
    fn ranges(&mut self) {
        let text = &mut self.text;
        range(text, &["rows", "row", "row", "ROW", "GRID_ROWS", "DIM_M"]);
        range(
            text,
            &["cols", "column", "col", "COL", "GRID_COLS", "DIM_N"],
        );
    }
}

/// Subroutine `{what}_of_pass`: first row (column) and number of rows (columns) of a pass. `names`: what, one of them, the register of
/// the strip, and constants: the prefix of the cut's, the strips, the extent.
pub(super) fn range(text: &mut Text, names: &[&str; 6]) {
    let [what, one, place, unit, parts, extent] = names;
    text.blank();
    text.block(&format!(
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
