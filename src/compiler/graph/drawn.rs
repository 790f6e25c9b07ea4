//! Constants drawn at random, in place of weights that a model was named without.
//!
//! Models: elements of one type, each a function of the seed and of its place, so that any part can be made by itself and none need be
//! kept. An element is one of [`CHOICES`] of its constant, which one says a hash of its place. Leaves out: weights that mean
//! something. Invariant: two parts that overlap agree.

use super::{Data, Graph, Kind, Op};
use crate::num::random::{normal, splitmix64};
use crate::num::{self, Dtype, Overflow, Rounding};
use std::sync::Arc;

/// Numbers of a constant that its elements are chosen from; few enough to stay in the host's cache.
const CHOICES: usize = 1 << BITS;
/// Bits of a hash that choose one.
const BITS: usize = 12;
/// Elements that a hash of 64 bits chooses.
const EACH: u64 = (64 / BITS) as u64;

/// What elements are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Like {
    /// N(0, 1 / n): sums of n products with numbers near 1 stay near 1, as those of trained weights do.
    Weights(u64),
    /// Codes of E8M0 from this one on, four of them.
    Scales(u8),
}

/// A constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawn {
    dtype: Dtype,
    elements: u64,
    seed: u64,
    codes: Vec<u32>,
}

impl Drawn {
    /// A constant of `elements` elements of a type.
    pub fn new(dtype: Dtype, elements: u64, like: Like, seed: u64) -> Drawn {
        let code = |i: u64| match like {
            Like::Weights(n) => {
                let x = normal(seed, i) / (n.max(1) as f32).sqrt();
                num::encode(dtype, x, Rounding::Rne, Overflow::Saturate)
            }
            Like::Scales(first) => u32::from(first) + i as u32 % 4,
        };
        Drawn {
            dtype,
            elements,
            // Not the stream that the numbers themselves are of.
            seed: splitmix64(seed, u64::MAX),
            codes: (0..CHOICES as u64).map(code).collect(),
        }
    }

    /// Size of all of it.
    pub fn bytes(&self) -> u64 {
        self.dtype.bytes_for(self.elements)
    }

    /// The codes of all elements from `first` on, until `take` has enough.
    fn codes(&self, first: u64, mut take: impl FnMut(u32) -> bool) {
        let mut word = first / EACH;
        let mut skip = first % EACH;
        loop {
            let hash = splitmix64(self.seed, word) >> (skip as usize * BITS);
            for i in 0..EACH - skip {
                let at = hash as usize >> (i as usize * BITS) & (CHOICES - 1);
                if !take(self.codes[at]) {
                    return;
                }
            }
            (word, skip) = (word + 1, 0);
        }
    }

    /// Fills `out` with the bytes from `at` on; bytes past the end are zeros.
    pub fn part(&self, at: u64, out: &mut [u8]) {
        let there = self.bytes().saturating_sub(at).min(out.len() as u64);
        let (out, past) = out.split_at_mut(there as usize);
        past.fill(0);
        if out.is_empty() {
            return;
        }
        let bits = u64::from(self.dtype.bits());
        if bits == 8 {
            let mut to = out.iter_mut();
            return self.codes(at, |code| {
                if let Some(byte) = to.next() {
                    *byte = code as u8;
                }
                to.len() > 0
            });
        }
        // Elements from the one in which the first byte begins, bit by bit behind each other.
        let first = at * 8 / bits;
        let (mut held, mut have) = (0u64, 0u64);
        let mut skip = at * 8 - first * bits;
        let mut left = self.elements - first;
        let mut to = out.iter_mut();
        self.codes(first, |code| {
            let code = if left > 0 { u64::from(code) } else { 0 };
            left = left.saturating_sub(1);
            held |= code << have;
            have += bits;
            let gone = skip.min(have);
            (held, have, skip) = (held >> gone, have - gone, skip - gone);
            while have >= 8 {
                let Some(byte) = to.next() else {
                    return false;
                };
                *byte = held as u8;
                (held, have) = (held >> 8, have - 8);
            }
            to.len() > 0
        });
    }

    /// All of it.
    pub fn read(&self) -> Arc<[u8]> {
        // Made where it stays: the host takes long to give so much memory twice.
        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, self.bytes() as usize).collect();
        if let Some(bytes) = Arc::get_mut(&mut bytes) {
            self.part(0, bytes);
        }
        bytes
    }
}

/// First code of the scales of blocks: 2^-2 to 2^1.
const SCALES: u8 = 125;

/// Gives constants without values random ones, made when they are read, so that a model without its weights can be checked.
pub fn draw_weights(graph: &mut Graph, seed: u64) {
    // What products sum over, of each value that is their weights; what is the scales of some.
    let mut sums = vec![1; graph.values.len()];
    let mut scales = vec![false; graph.values.len()];
    for node in &graph.nodes {
        let weights = match node.op {
            Op::Matmul(_) => node.inputs.get(1),
            Op::Grouped(_) => node.inputs.get(2),
            _ => None,
        };
        if let Some(id) = weights {
            let k = graph[*id].shape.iter().rev().nth(1);
            sums[id.0 as usize] = k.copied().unwrap_or(1);
        }
        if let (Op::Grouped(_), Some(id)) = (&node.op, node.inputs.get(3)) {
            scales[id.0 as usize] = true;
        }
    }
    for (i, value) in graph.values.iter_mut().enumerate() {
        let Kind::Constant(data) = &mut value.kind else {
            continue;
        };
        if *data != Data::Absent {
            continue;
        }
        let like = match scales[i] {
            true => Like::Scales(SCALES),
            false => Like::Weights(sums[i]),
        };
        let elements = value.shape.iter().product();
        let drawn = Drawn::new(value.dtype, elements, like, splitmix64(seed, i as u64));
        *data = Data::Drawn(drawn.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_parts_of_the_whole() {
        for dtype in [
            Dtype::F32,
            Dtype::Bf16,
            Dtype::E4m3,
            Dtype::E2m3,
            Dtype::E2m1,
        ] {
            let drawn = Drawn::new(dtype, 1003, Like::Weights(4), 7);
            let whole = drawn.read();
            assert_eq!(whole.len() as u64, dtype.bytes_for(1003));
            for at in (0..whole.len()).step_by(37) {
                let mut part = vec![0; 41];
                drawn.part(at as u64, &mut part);
                let there = 41.min(whole.len() - at);
                assert_eq!(part[..there], whole[at..at + there], "{dtype} from {at}");
                assert!(part[there..].iter().all(|b| *b == 0));
            }
        }
    }

    #[test]
    fn elements_are_as_wide_as_asked() {
        let drawn = Drawn::new(Dtype::Bf16, 10_000, Like::Weights(64), 3);
        let mut values = vec![0.0; 10_000];
        num::decode_slice(Dtype::Bf16, &drawn.read(), &mut values);
        let square: f32 = values.iter().map(|x| x * x).sum::<f32>() / 10_000.0;
        assert!((square * 64.0 - 1.0).abs() < 0.1, "{square}");
        let scales = Drawn::new(Dtype::U8, 100, Like::Scales(120), 3).read();
        assert!(scales.iter().all(|s| (120..124).contains(s)));
        assert!((120..124).all(|s| scales.contains(&s)));
    }
}
