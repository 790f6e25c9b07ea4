//! The bytes that an operation reads and writes.
//!
//! Models: transfers with their walks, tensor operations with their strides, as few contiguous ranges as the strides allow.
//! Leaves out: vector kernels ([`super::kernel`]) and the order inside an operation: a transfer reads all before it writes.
//! Invariant: ranges are those of the executor; every operation here was validated when it was pushed, or its gather table
//! when it started.

use crate::isa::{AOrder, BOrder};
use crate::machine::op::{AccOp, Dim, MmOp, Transfer, Walk, quant_block};
use std::ops::Range;

/// Rows of bytes, repeated over two dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rows {
    first: u64,
    bytes: u64,
    /// (count, bytes between), outermost first.
    dims: [(u64, i64); 2],
}

impl Rows {
    fn matrix(first: u64, bytes: u64, rows: u64, ld: u64) -> Rows {
        let dims = [(1, 0), (rows, ld as i64)];
        Rows { first, bytes, dims }
    }

    /// The same bytes in longer rows: a dimension that leaves no gap becomes part of the row.
    fn merged(mut self) -> Rows {
        for dim in &mut self.dims {
            if dim.1 < 0 {
                let back = dim.1.unsigned_abs() * (dim.0 - 1);
                self.first = self.first.wrapping_sub(back);
                dim.1 = -dim.1;
            }
            if dim.1 == 0 {
                dim.0 = 1;
            }
        }
        // Inner first; when the inner one stays, the outer one may still join the row.
        for inner in [1, 0, 1] {
            let (count, stride) = self.dims[inner];
            if count > 1 && stride.unsigned_abs() <= self.bytes {
                self.bytes += (count - 1) * stride.unsigned_abs();
                self.dims[inner] = (1, 0);
            }
        }
        self
    }

    fn each(self, out: &mut dyn FnMut(Range<u64>)) {
        if self.bytes == 0 || self.dims.iter().any(|d| d.0 == 0) {
            return;
        }
        let Rows { first, bytes, dims } = self.merged();
        for outer in 0..dims[0].0 {
            for inner in 0..dims[1].0 {
                let at = first
                    .wrapping_add_signed(outer as i64 * dims[0].1)
                    .wrapping_add_signed(inner as i64 * dims[1].1);
                out(at..at + bytes);
            }
        }
    }
}

/// Bytes of the source that a transfer reads; gather offsets resolved.
pub fn source(t: &Transfer, out: &mut dyn FnMut(Range<u64>)) {
    let first = t.src.offset;
    match t.walk {
        Walk::Rows { row, dims, .. } => {
            let bytes = t.sdt.bytes_for(row);
            let of = |d: Dim| (d.count, d.src_stride);
            let Some(offsets) = &t.gathered else {
                let dims = dims.map(of);
                return Rows { first, bytes, dims }.each(out);
            };
            for offset in offsets.iter() {
                let first = first.wrapping_add_signed(*offset);
                let dims = [(1, 0), of(dims[1])];
                Rows { first, bytes, dims }.each(out);
            }
        }
        Walk::Transpose {
            rows, cols, src_ld, ..
        } => Rows::matrix(first, t.sdt.bytes_for(cols), rows, src_ld).each(out),
    }
}

/// Bytes of the index table of a gather, in the own SRAM.
pub fn table(t: &Transfer) -> Option<Range<u64>> {
    match t.walk {
        Walk::Rows {
            dims,
            gather: Some((table, _)),
            ..
        } => Some(table..table + 4 * dims[0].count),
        _ => None,
    }
}

/// Bytes that a transfer writes in each destination.
pub fn destination(t: &Transfer, out: &mut dyn FnMut(Range<u64>)) {
    let first = t.dst.offset;
    match t.walk {
        Walk::Rows { row, dims, .. } => {
            let bytes = t.ddt.bytes_for(row);
            let rows = dims[0].count * dims[1].count;
            let dims = dims.map(|d| (d.count, d.dst_stride));
            Rows { first, bytes, dims }.each(out);
            // The scales of all rows' blocks: for each block of a row a byte a row.
            if let Some(q) = &t.quantise {
                let blocks = row / quant_block(q.rule) as u64;
                Rows::matrix(q.scales, rows, blocks, q.ld).each(out);
            }
        }
        Walk::Transpose {
            rows, cols, dst_ld, ..
        } => Rows::matrix(first, t.ddt.bytes_for(rows), cols, dst_ld).each(out),
    }
}

/// Bytes of the own TSRAM that a matrix product reads.
pub fn operands(op: &MmOp, out: &mut dyn FnMut(Range<u64>)) {
    let [m, n, k] = [op.m, op.n, op.k].map(u64::from);
    let (a_rows, a_cols) = match op.a_order {
        AOrder::Mk => (m, k),
        AOrder::Km => (k, m),
    };
    let (b_rows, b_cols) = match op.b_order {
        BOrder::Kn => (k, n),
        BOrder::Nk => (n, k),
    };
    Rows::matrix(op.a, op.ta.bytes_for(a_cols), a_rows, op.lda).each(out);
    Rows::matrix(op.b, op.tb.bytes_for(b_cols), b_rows, op.ldb).each(out);
    for (array, lanes) in [(&op.scale_a, m), (&op.scale_b, n)] {
        Rows::matrix(array.offset, lanes, array.blocks(k), array.ld).each(out);
    }
}

/// Bytes of the own TSRAM that `mm.load` reads or `mm.store` writes.
pub fn matrix(op: &AccOp, out: &mut dyn FnMut(Range<u64>)) {
    let bytes = op.dtype.bytes_for(u64::from(op.n));
    Rows::matrix(op.addr, bytes, u64::from(op.m), op.ld).each(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(first: u64, bytes: u64, dims: [(u64, i64); 2]) -> Vec<(u64, u64)> {
        let mut out = Vec::new();
        Rows { first, bytes, dims }.each(&mut |r| out.push((r.start, r.end)));
        out
    }

    #[test]
    fn rows_without_gaps_are_one_range() {
        let many = 1 << 32;
        assert_eq!(ranges(8, 4, [(3, 20), (5, 4)]), [(8, 68)]);
        assert_eq!(ranges(8, 4, [(5, 4), (3, 20)]), [(8, 68)]);
        assert_eq!(ranges(8, 4, [(many, 0), (many, 0)]), [(8, 12)]);
        assert_eq!(ranges(8, 4, [(2, 100), (3, 4)]), [(8, 20), (108, 120)]);
        assert_eq!(ranges(8, 4, [(2, 4), (2, 100)]), [(8, 16), (108, 116)]);
        assert_eq!(ranges(108, 4, [(1, 0), (2, -100)]), [(8, 12), (108, 112)]);
        assert_eq!(ranges(20, 4, [(1, 0), (4, -4)]), [(8, 24)]);
        assert_eq!(ranges(0, 4, [(1, 0), (3, 2)]), [(0, 8)]);
        assert_eq!(ranges(0, 4, [(1, 0), (0, 0)]), []);
    }
}
