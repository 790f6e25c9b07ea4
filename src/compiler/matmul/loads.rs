//! The loads of a matrix product: the subroutines that push them, and the transfers of a chunk.
//!
//! Models: where a chunk's elements and scales lie in HBM, from the cursor's chunk of K and the first row of A (column of B) of its
//! pass. Leaves out: when the subroutines are called ([`super::code`]). Invariant: rows of a transfer are whole bytes; what that
//! adds to elements of less than a byte is the padding of a tensor's row, and no product reads it.

use super::super::plan::Side;
use super::{Emit, Stream};
use crate::isa::ScaleType;
use crate::num::Dtype;

impl Stream {
    /// Transfers of a chunk: the elements, and the scales if there are any.
    pub(super) fn parts(&self) -> u64 {
        1 + u64::from(self.operand.scaled() && self.quantised.is_none())
    }
}

impl Emit<'_> {
    /// The transfers of a chunk: `index` is its slot or resident chunk, `depth` the register with its chunk of K. Clobbers t0 to t5.
    fn load(&mut self, side: Side, index: &str, depth: &str) {
        let s = self.stream(side);
        let (name, sharers, operand) = (s.name, s.sharers, s.operand);
        self.text
            .inst(&format!("wait {name}_FREE({index}), {sharers}"));
        self.stage_destinations(side, index);
        self.elements(side, index, depth);
        let dtype = operand.dtype;
        if let Some(wide) = self.stream(side).quantised {
            return self.quantise(index, wide);
        }
        let len = if side == Side::A { "t3" } else { "t5" };
        self.transfer(
            side,
            index,
            "elements",
            &format!("dma.{dtype}.{dtype}"),
            len,
        );
        if operand.scaled() {
            self.stage_destinations(side, index);
            self.scales(side, index, depth);
            let extent = self.stream(side).extent;
            self.transfer(side, index, "scales", "dma.u8.u8", extent);
        }
    }

    /// Stages the signal at the sharers of a chunk, and who they are; clobbers t0.
    fn stage_destinations(&mut self, side: Side, index: &str) {
        let s = self.stream(side);
        let (name, mask, mask_index, shared) = (s.name, s.mask, s.mask_index, s.sharers > 1);
        self.text
            .inst(&format!("signal.dest {name}_FULL({index}), 1"));
        if shared {
            self.text
                .block(&format!("ldc t0, {mask}({mask_index})\nmcast t0"));
        }
    }

    /// Stages the rows of a chunk's elements; t1 = destination, t2 = source, length in t3 (A) or t5 (B). Clobbers t4.
    fn elements(&mut self, side: Side, index: &str, depth: &str) {
        let s = self.stream(side);
        let (name, first, extent, operand) = (s.name, s.first, s.extent, s.operand);
        let (row, count) = match side {
            Side::A => (self.t.op.k, extent),
            Side::B => (self.t.op.n, "t3"),
        };
        self.depth(depth);
        self.text.block(&format!(
            "li t1, {name}_LD
             li t2, {name}_ROW
             dim {count}, t1, t2
             muli t1, {index}, {name}_SLOT
             la t2, {name}_BUF
             add t1, t1, t2
             li t2, {name}_STEP
             mul t2, t2, {depth}
             la t4, {name}
             add t2, t2, t4"
        ));
        let bits = operand.dtype.bits();
        self.text.block(&match side {
            Side::A => format!("li t4, {name}_ROW\nmul t4, t4, {first}"),
            Side::B if bits.is_multiple_of(8) => format!("muli t4, {first}, {}", bits / 8),
            Side::B => format!("muli t4, {first}, {bits}\nshri t4, t4, 3"),
        });
        self.text.inst("add t2, t2, t4");
        let len = if side == Side::A { "t3" } else { "t5" };
        if side == Side::B {
            self.text.inst(&format!("mv {len}, {extent}"));
        }
        let granule = operand.granule();
        if !row.is_multiple_of(granule) {
            self.text.block(&format!(
                "addi {len}, {len}, {}       # to whole bytes
                 andi {len}, {len}, -{granule}",
                granule - 1
            ));
        }
    }

    /// Pushes the load of a chunk of A that quantises it: rows staged, t1 = destination, t2 = source, length in t3. Clobbers t0, t4 and t5.
    fn quantise(&mut self, index: &str, wide: Dtype) {
        let (operand, channel) = (self.a.operand, self.a.channels[0]);
        let (rule, factor) = match operand.scale {
            // 1 in FP32, the tensor scale.
            ScaleType::Ue4m3 => ("nvfp4", "li t5, 0x3f800000"),
            _ => ("rceil", "li t5, 0"),
        };
        self.text.block(&format!(
            "muli t0, {index}, A_SCALE_SLOT
             la t4, A_SCALE_BUF
             add t0, t0, t4
             li t4, A_SCALE_LD
             {factor}
             dma.q.{rule}.{wide}.{} {channel}, t1, t2, t3, t0, t4, t5",
            operand.dtype
        ));
    }

    /// Stages the rows of a chunk's scales, one for each block along K; t1 = destination, t2 = source. Clobbers t3 and t4.
    fn scales(&mut self, side: Side, index: &str, depth: &str) {
        let s = self.stream(side);
        let (name, first, block) = (s.name, s.first, s.operand.scale_block());
        if self.t.op.k.is_multiple_of(self.t.kc) {
            self.text.inst(&format!("li t3, {name}_SCALE_BLOCKS"));
        } else {
            self.depth(depth);
            self.text.block(&format!(
                "addi t3, t3, {}\nshri t3, t3, {}",
                block - 1,
                block.ilog2()
            ));
        }
        self.text.block(&format!(
            "li t1, {name}_SCALE_LD
             li t2, {name}_SCALE_ROW
             dim t3, t1, t2
             muli t1, {index}, {name}_SCALE_SLOT
             la t2, {name}_SCALE_BUF
             add t1, t1, t2
             li t2, {name}_SCALE_STEP
             mul t2, t2, {depth}
             la t4, {name}_scales
             add t2, t2, t4
             add t2, t2, {first}"
        ));
    }

    /// Pushes a transfer from t2 to t1, in the channel of its chunk; clobbers t0.
    fn transfer(&mut self, side: Side, index: &str, what: &str, dma: &str, len: &str) {
        let s = self.stream(side);
        let (name, channels) = (s.name, s.channels.clone());
        match channels[..] {
            [one] => self.text.inst(&format!("{dma} {one}, t1, t2, {len}")),
            _ => self.text.block(&format!(
                "andi t0, {index}, 1
                 bnez t0, odd_{what}_{name}
                 {dma} {}, t1, t2, {len}
                 j even_{what}_{name}
                 odd_{what}_{name}:
                 {dma} {}, t1, t2, {len}
                 even_{what}_{name}:",
                channels[0], channels[1]
            )),
        }
    }

    /// Gives a stream's cursor the rows (columns) of the pass in t0.
    fn point(&mut self, side: Side) {
        self.text.block(match side {
            Side::A => "jal rc, rows_of_pass\nmv lmi, t1\nmv arow, t0",
            Side::B => "jal rc, cols_of_pass\nmv lnj, t1\nmv bcol, t0",
        });
    }

    /// Subroutine: pushes the ring's next loads that are this tile's, and moves the cursor on.
    pub(super) fn push_load(&mut self) {
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
            let (name, turn, member, sharers) = (s.name, s.turn, s.member, s.sharers);
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
    pub(super) fn push_resident(&mut self) {
        let (outer, _) = self.pass_counts();
        let side = self.t.outer;
        let s = self.stream(side);
        let (name, member, sharers) = (s.name, s.member, s.sharers);
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
            "inc q
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
}
