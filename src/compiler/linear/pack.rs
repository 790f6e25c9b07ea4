//! The host's side: row-major weights to the order in which tiles stream them, and back.
//!
//! Models: the bytes of one layer in the stream. A chunk holds its rows of K, a panel's columns each, packed; behind them, if the type has scales, the
//! scales of its blocks, one row of `cols` for each. Padding is zero. Leaves out: other layers ([`super::Stream`]). Invariant: every byte of the weights
//! lies in the stream exactly once.

use super::{Packing, Pieces};

/// Where `bytes` of a row-major array lie in a tile's chunk.
struct Run {
    /// Offset in the array.
    from: usize,
    /// Offset in the chunk.
    to: usize,
    bytes: usize,
}

/// Calls `each` with every run of elements, then of scales, of a tile's chunk: whether it is of scales, and the run.
fn runs(p: &Packing, tile: u64, index: u64, each: &mut dyn FnMut(bool, Run)) {
    let (op, w) = (&p.op, p.op.weights);
    let (part, group) = (tile % p.parts, tile / p.parts);
    let Some((panel, col, chunk, _)) = p.chunk(index) else {
        return;
    };
    let first_col = group * p.width + col;
    let cols = panel.cols.min(op.n.saturating_sub(first_col));
    let first_k = part * p.depth + chunk * panel.kc;
    let end_k = (first_k + panel.kc).min((part + 1) * p.depth).min(op.k);
    if cols == 0 {
        return;
    }
    for k in first_k..end_k {
        let run = Run {
            from: (k * w.bytes(op.n) + w.bytes(first_col)) as usize,
            to: ((k - first_k) * panel.ldb(op)) as usize,
            bytes: w.bytes(cols) as usize,
        };
        each(false, run);
    }
    for block in 0..w.scale_blocks(end_k - first_k) {
        // Chunks begin at multiples of a block.
        let row = first_k / w.scale_block() + block;
        let run = Run {
            from: (row * op.n + first_col) as usize,
            to: (panel.scales_at(op) + block * panel.cols) as usize,
            bytes: cols as usize,
        };
        each(true, run);
    }
}

/// Calls `each` with every tile, every chunk, the offset in the layer of the chunk's first piece, and its pieces.
fn chunks(p: &Packing, each: &mut dyn FnMut(u64, u64, usize, Pieces)) {
    for index in 0..p.chunks() {
        let Some((panel, _, _, before)) = p.chunk(index) else {
            return;
        };
        for tile in 0..p.tiles {
            let at = p.tiles * before + tile * panel.pieces.bytes;
            each(tile, index, at as usize, panel.pieces);
        }
    }
}

/// The layer's bytes in the stream, [`Packing::bytes`] of them, from B \[k, n\] row-major, packed, and its scales \[ceil(k / block), n\], empty if
/// it has none.
///
/// # Panics
/// If the lengths are not those of the layer.
pub fn pack(p: &Packing, weights: &[u8], scales: &[u8]) -> Vec<u8> {
    let (op, w) = (&p.op, p.op.weights);
    assert_eq!(weights.len() as u64, op.k * w.bytes(op.n), "bytes of B");
    let blocks = w.scale_blocks(op.k);
    assert_eq!(scales.len() as u64, blocks * op.n, "bytes of B's scales");
    let mut out = vec![0; p.bytes() as usize];
    let mut chunk = Vec::new();
    chunks(p, &mut |tile, index, at, pieces| {
        chunk.clear();
        chunk.resize(pieces.total() as usize, 0);
        runs(p, tile, index, &mut |of_scales, run| {
            let source = if of_scales { scales } else { weights };
            chunk[run.to..run.to + run.bytes]
                .copy_from_slice(&source[run.from..run.from + run.bytes]);
        });
        let (bytes, step) = (pieces.bytes as usize, (p.tiles * pieces.bytes) as usize);
        for (i, piece) in chunk.chunks(bytes).enumerate() {
            let to = at + i * step;
            out[to..to + piece.len()].copy_from_slice(piece);
        }
    });
    out
}

/// The inverse of [`pack`]: the weights and their scales.
///
/// # Panics
/// If `stream` is not [`Packing::bytes`] long.
pub fn unpack(p: &Packing, stream: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (op, w) = (&p.op, p.op.weights);
    assert_eq!(stream.len() as u64, p.bytes(), "bytes of the layer");
    let mut weights = vec![0; (op.k * w.bytes(op.n)) as usize];
    let mut scales = vec![0; (w.scale_blocks(op.k) * op.n) as usize];
    chunks(p, &mut |tile, index, at, pieces| {
        let (bytes, step) = (pieces.bytes as usize, (p.tiles * pieces.bytes) as usize);
        let starts = (0..pieces.count as usize).map(|i| at + i * step);
        let chunk: Vec<u8> = starts
            .flat_map(|s| stream[s..s + bytes].iter().copied())
            .collect();
        runs(p, tile, index, &mut |of_scales, run| {
            let target = if of_scales { &mut scales } else { &mut weights };
            target[run.from..run.from + run.bytes]
                .copy_from_slice(&chunk[run.to..run.to + run.bytes]);
        });
    });
    (weights, scales)
}
