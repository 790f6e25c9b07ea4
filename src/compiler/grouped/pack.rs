//! The host's side: experts \[experts, k, n\] to the order in which tiles stream them.
//!
//! Models: the bytes of all experts in HBM. A chunk holds its rows of K, a panel's columns each, packed; behind them the scales of its blocks, one row of
//! columns for each. Padding is zero. Invariant: every byte of the weights lies there exactly once.

use super::Packing;

/// All experts as they lie in HBM, [`Packing::bytes`] of them, from W \[experts, k, n\] row-major, packed, and its scales
/// \[experts, k / block, n\], empty if it has none.
///
/// # Panics
/// If the lengths are not those of the operation.
pub fn pack(p: &Packing, weights: &[u8], scales: &[u8]) -> Vec<u8> {
    let (op, w) = (&p.op, p.op.weights);
    let blocks = w.scale_blocks(op.k);
    let (row, matrix) = (w.bytes(op.n), op.k * w.bytes(op.n));
    assert_eq!(weights.len() as u64, op.experts * matrix, "bytes of W");
    let all = op.experts * blocks * op.n;
    assert_eq!(scales.len() as u64, all, "bytes of W's scales");
    let mut out = vec![0; p.bytes() as usize];
    let mut chunk = vec![0; p.pieces.total() as usize];
    let copy = |chunk: &mut [u8], to: u64, from: &[u8], at: u64, bytes: u64| {
        let (to, at, bytes) = (to as usize, at as usize, bytes as usize);
        chunk[to..to + bytes].copy_from_slice(&from[at..at + bytes]);
    };
    for expert in 0..op.experts {
        for (index, [band, panel, first]) in p.order().enumerate() {
            let depth = p.kc.min(op.k - first);
            for tile in 0..p.tiles {
                let share = (band * p.tiles + tile) * p.share;
                let col = share + panel * p.cols;
                let end = (share + p.share).min(op.n);
                let cols = p.cols.min(end.saturating_sub(col));
                chunk.fill(0);
                if cols > 0 {
                    for k in 0..depth {
                        let at = expert * matrix + (first + k) * row + w.bytes(col);
                        copy(&mut chunk, k * p.ldb(), weights, at, w.bytes(cols));
                    }
                    for block in 0..w.scale_blocks(depth) {
                        let from = expert * blocks + first / w.scale_block() + block;
                        let to = p.scales_at() + block * p.cols;
                        copy(&mut chunk, to, scales, from * op.n + col, cols);
                    }
                }
                let (piece, step) = (p.pieces.bytes, p.tiles * p.pieces.bytes);
                let at = expert * p.expert_bytes() + index as u64 * p.tiles * p.pieces.total();
                for (i, bytes) in chunk.chunks(piece as usize).enumerate() {
                    let to = (at + tile * piece + i as u64 * step) as usize;
                    out[to..to + bytes.len()].copy_from_slice(bytes);
                }
            }
        }
    }
    out
}
