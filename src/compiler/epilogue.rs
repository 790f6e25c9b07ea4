//! What happens to the sums of a matrix product between the accumulators and C.
//!
//! Models: three ends. Without anything to do the tensor unit rounds the sums, if to BF16, while it stores them. With tensor scales (NVFP4) it
//! stores them in FP32, and a vector kernel multiplies them by the product of the two FP32 tensor scales and rounds to BF16, in place. The
//! rule, bit for bit: g = A_tensor_scale * B_tensor_scale, one FP32 product; C = sum * g, one FP32 product rounded to nearest even; for
//! BF16 rounded once more to nearest even, past the largest finite value to that value. With a row-wise program of single elements behind
//! it (scales, bias, activation, residual, a cast) it stores them in FP32, too, and that program's kernel runs over them: [`fused`]. Leaves
//! out: when kernels run ([`super::matmul`]); a program behind tensor scales. Invariant of the scales' kernel: a row of the result lies at the
//! start of the row of sums that it came from, so that no vector is overwritten before it is read.

pub mod fused;

use super::attention::schedule::{Pointer, Rows, access, compute};
use super::emit::Text;
use super::op::Matmul;
use crate::chip::Chip;
use crate::num::Dtype;
use fused::Fused;
use std::sync::Arc;

/// Name of the kernel.
pub const KERNEL: &str = "tensor_scale";
/// Rows of a pass of the kernel's pipelined loop.
const UNROLL: u64 = 16;
/// Bytes that the factors take in tile SRAM: two of FP32, in a buffer of their own.
const FACTOR_BYTES: u64 = 256;
/// Largest offset of a vector load or store: 24 bits, signed.
const OFFSET_LIMIT: u64 = 1 << 23;

/// The end of a product.
#[derive(Clone, Debug, PartialEq)]
pub struct Epilogue {
    /// Whether a kernel multiplies the sums by the tensor scales.
    tensor_scales: bool,
    /// A program that follows the sums.
    fused: Option<Arc<Fused>>,
    /// Element type of C.
    pub out: Dtype,
}

impl Epilogue {
    /// The end that an operation needs.
    pub fn of(op: &Matmul) -> Epilogue {
        Epilogue {
            tensor_scales: op.tensor_scaled(),
            fused: None,
            out: op.out,
        }
    }

    /// A program behind a product without tensor scales.
    pub fn fused(program: Fused) -> Epilogue {
        Epilogue {
            tensor_scales: false,
            out: program.out(),
            fused: Some(Arc::new(program)),
        }
    }

    /// The program that follows the sums.
    pub fn program(&self) -> Option<&Fused> {
        self.fused.as_deref()
    }

    /// Whether the sums pass through the vector processor.
    pub fn has_kernel(&self) -> bool {
        self.tensor_scales || self.fused.is_some()
    }

    /// What the tensor unit stores.
    pub fn store_type(&self) -> Dtype {
        match self.has_kernel() {
            true => Dtype::F32,
            false => self.out,
        }
    }

    /// What the staging buffer holds when the kernel, if there is one, is done.
    pub fn staged_type(&self) -> Dtype {
        match self.fused {
            Some(_) => Dtype::F32,
            None => self.out,
        }
    }

    /// Bytes of an element in the staging buffer.
    pub fn c_bytes(&self) -> u64 {
        u64::from(self.store_type().bits() / 8)
    }

    /// Bytes of an element of C.
    pub fn out_bytes(&self) -> u64 {
        u64::from(self.out.bits() / 8)
    }

    /// Elements from row to row of C in HBM, of `n` columns.
    pub fn pitch(&self, n: u64) -> u64 {
        self.program().map_or(n, Fused::pitch)
    }

    /// Bytes that an element of C moves in and out of tile SRAM: stored, read and written by the kernel, and sent; of matrices among its
    /// operands, loaded and read.
    pub fn c_traffic(&self) -> u64 {
        match (&self.fused, self.tensor_scales) {
            (Some(fused), _) => 4 * 4 + 2 * 4 * fused.matrices().len() as u64,
            (None, true) => 4 + 4 + self.out_bytes() + self.out_bytes(),
            (None, false) => self.out_bytes() + self.out_bytes(),
        }
    }

    /// Bytes of each element of C that come from HBM for the kernel, by the matrix that they are of.
    pub fn loaded(&self) -> Vec<u64> {
        self.program().map_or(Vec::new(), Fused::matrices)
    }

    /// Bytes in tile SRAM besides the staging buffers, for passes of up to so many rows and columns.
    pub fn tsram_bytes(&self, rows: u64, cols: u64) -> u64 {
        match (&self.fused, self.tensor_scales) {
            (Some(fused), _) => fused.places(rows, cols).bytes,
            (None, true) => FACTOR_BYTES,
            (None, false) => 0,
        }
    }

    /// Times that these bytes are there, with so many C buffers: of a program's operands, which are loaded for a pass, one for each.
    pub fn buffers(&self, c_buffers: u64) -> u64 {
        match self.fused {
            Some(_) => c_buffers,
            None => 1,
        }
    }

    /// Semaphores: one for each buffer that the kernel has done, and one for tensor scales.
    pub fn semaphores(&self, c_buffers: u64) -> u64 {
        match (self.has_kernel(), self.tensor_scales) {
            (true, true) => c_buffers + 1,
            (true, false) => c_buffers,
            (false, _) => 0,
        }
    }

    /// The largest value of these: both factors have arrived, or the sums and all operands.
    pub fn counter(&self) -> u64 {
        match (&self.fused, self.tensor_scales) {
            (Some(fused), _) => 1 + fused.operands().len() as u64,
            (None, true) => 2,
            (None, false) => 1,
        }
    }

    /// Lanes of 32 bits that the kernel is made for; 0: there is none.
    pub fn lanes(&self, chip: &Chip) -> u64 {
        match self.has_kernel() {
            true => u64::from(chip.tvp.lanes_32),
            false => 0,
        }
    }

    /// Loops of the kernel that nest: vectors of a row, then a pipelined loop inside the loop that skips it.
    pub fn loop_depth(&self) -> u64 {
        match self.has_kernel() {
            true => 3,
            false => 0,
        }
    }

    /// Whether offsets of the kernel reach over two passes of rows that are `ldc` bytes apart, and over its operands.
    pub fn reaches(&self, ldc: u64, rows: u64, cols: u64) -> bool {
        let reach = match (&self.fused, self.tensor_scales) {
            (Some(fused), _) => fused.reach(ldc, &fused.places(rows, cols)),
            (None, true) => 2 * UNROLL * ldc,
            (None, false) => 0,
        };
        reach < OFFSET_LIMIT
    }

    /// Cycles of the vector processor for a block of C: of tensor scales a vector a cycle.
    pub fn cycles(&self, chip: &Chip, rows: u64, cols: u64) -> u64 {
        match (&self.fused, self.tensor_scales) {
            (Some(fused), _) => fused.cycles(rows, cols),
            (None, true) => (rows * cols).div_ceil(u64::from(chip.tvp.lanes_32).max(1)),
            (None, false) => 0,
        }
    }

    /// Emits the kernel of passes of up to so many rows and columns.
    pub fn kernel(&self, text: &mut Text, chip: &Chip, ldc: u64, rows: u64, cols: u64) {
        match &self.fused {
            Some(fused) => fused.kernel(text, chip, &fused.places(rows, cols), ldc),
            None => self.scaling(text, chip, ldc),
        }
    }

    /// Emits the kernel of the tensor scales: s1 the buffer, s2 its rows, s3 its columns, s4 the vectors of a row, s5 the factors.
    pub fn scaling(&self, text: &mut Text, chip: &Chip, ldc: u64) {
        if !self.tensor_scales {
            return;
        }
        let out = self.out;
        let round = out == Dtype::Bf16;
        let lanes = u64::from(chip.tvp.lanes_32);
        text.blank();
        text.comment(
&format!(
            "Sums of a pass in FP32, times the product of the tensor scales, as {} at the start of each row.\n  \
             s1: buffer\n  s2: rows\n  s3: columns\n  s4: vectors of a row\n  s5: the two scales",
            if round { "BF16" } else { "FP32" }
        ));
        text.directive(&format!(".kernel {KERNEL}"));
        text.block(&format!(
            "vldb.f32 v30, 0(s5)
             vldb.f32 v31, 4(s5)
             vmul.f32 v31, v30, v31
             sadd s6, s1, s0         # where the results of a vector go
             loop s4, scaled
             sli s7, {lanes}
             smin s7, s7, s3
             vwhile.bf16 p1, s7      # lanes of both widths
             saddi s3, s3, -{lanes}
             sadd s8, s1, s0
             sadd s9, s6, s0
             sshri s10, s2, {shift}
             smuli s11, s10, -{UNROLL}
             sadd s11, s11, s2",
            shift = UNROLL.ilog2()
        ));
        let pointer = |register| Pointer {
            register,
            step: ldc,
        };
        // A register is free again 8 rows, and so 8 cycles, later; results are there 4 cycles after their operands.
        let register = |row: usize, set: usize| format!("v{}", 8 * set + row % 8);
        let mut steps = vec![
            access(0, 0, move |row, at| {
                format!("vld.f32 {}, {at}(s8) ?p1", register(row, 0))
            }),
            compute(5, move |row| {
                format!("vmul.f32 {}, {}, v31", register(row, 1), register(row, 0))
            }),
        ];
        if round {
            steps.push(compute(9, move |row| {
                let (to, from) = (register(row, 2), register(row, 1));
                format!("vcvt.bf16.f32 {to}, {from}, 0, 0")
            }));
        }
        let (stored, set) = if round { (13, 2) } else { (9, 1) };
        steps.push(access(stored, 1, move |row, at| {
            format!("vst.{out} {}, {at}(s9) ?p1", register(row, set))
        }));
        let rows = Rows {
            interval: 1,
            unroll: UNROLL as usize,
            pointers: vec![pointer("s8"), pointer("s9")],
            steps,
        };
        rows.emit(text, "s10", "s12");
        text.comment("rows that fill no pass, one by one");
        text.block(&format!(
            "loop s11, rows_left
             vld.f32 v0, 0(s8) ?p1
             saddi s8, s8, {ldc}
             vmul.f32 v8, v0, v31"
        ));
        if round {
            text.inst("vcvt.bf16.f32 v16, v8, 0, 0");
        }
        text.block(&format!(
            "vst.{out} {}, 0(s9) ?p1
             saddi s9, s9, {ldc}
             rows_left:
             saddi s1, s1, {}
             saddi s6, s6, {}
             scaled:
             vret",
            if round { "v16" } else { "v8" },
            4 * lanes,
            self.out_bytes() * lanes
        ));
    }
}
