//! Affine views: the layout operations of a graph as one strided read.
//!
//! Models: out[i0, i1, ..] = in[offset + sum of i_a * strides_a], in elements of a contiguous input. Transpose, reshape, slice
//! (also backwards) and expand are views; a diagonal or a window would be, too. Leaves out: padding ([`super::Pad`]).
//! Invariant of a view that [`View::reach`] accepts: no index leaves the input.

use super::elements;
use serde::{Deserialize, Serialize};

/// A strided read of a contiguous tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct View {
    /// Of the output.
    pub shape: Vec<u64>,
    /// Elements of the input between neighbours, one for each axis; 0 repeats, negative goes backwards.
    pub strides: Vec<i64>,
    /// Element of the input that comes first.
    pub offset: u64,
}

/// Strides of a contiguous tensor, in elements.
pub fn contiguous(shape: &[u64]) -> Vec<i64> {
    let mut step = 1i64;
    let mut strides: Vec<i64> = Vec::with_capacity(shape.len());
    for extent in shape.iter().rev() {
        strides.push(step);
        step = step.saturating_mul(i64::try_from(*extent).unwrap_or(i64::MAX));
    }
    strides.reverse();
    strides
}

impl View {
    /// All elements in order, in another shape.
    pub fn reshape(shape: &[u64]) -> View {
        View {
            shape: shape.to_vec(),
            strides: contiguous(shape),
            offset: 0,
        }
    }

    /// Axis a of the output is axis `order[a]` of the input.
    pub fn transpose(shape: &[u64], order: &[usize]) -> View {
        let strides = contiguous(shape);
        View {
            shape: order.iter().map(|a| shape[*a]).collect(),
            strides: order.iter().map(|a| strides[*a]).collect(),
            offset: 0,
        }
    }

    /// Elements `start`, `start + step`, .. of an axis, `count` of them.
    pub fn slice(shape: &[u64], axis: usize, start: u64, step: i64, count: u64) -> View {
        let mut view = View::reshape(shape);
        let stride = view.strides[axis];
        view.offset = start.saturating_mul(stride.unsigned_abs());
        view.strides[axis] = stride.saturating_mul(step);
        view.shape[axis] = count;
        view
    }

    /// Axes of extent 1 repeated, and new ones in front.
    ///
    /// `None` unless `shape` broadcasts to `to`.
    pub fn expand(shape: &[u64], to: &[u64]) -> Option<View> {
        let new = to.len().checked_sub(shape.len())?;
        let mut strides = vec![0; new];
        for ((have, want), stride) in shape.iter().zip(&to[new..]).zip(contiguous(shape)) {
            strides.push(match have {
                _ if have == want => stride,
                1 => 0,
                _ => return None,
            });
        }
        Some(View {
            shape: to.to_vec(),
            strides,
            offset: 0,
        })
    }

    /// First and last element of the input that it reads.
    pub fn reach(&self) -> (i128, i128) {
        let start = i128::from(self.offset);
        let (mut low, mut high) = (start, start);
        for (extent, stride) in self.shape.iter().zip(&self.strides) {
            let end = i128::from(extent.saturating_sub(1)) * i128::from(*stride);
            match end < 0 {
                true => low += end,
                false => high += end,
            }
        }
        (low, high)
    }

    /// Whether it reads all of `inputs` elements in order: the bytes of its output are those of its input.
    pub fn is_alias(&self, inputs: u64) -> bool {
        let contiguous = contiguous(&self.shape);
        let axes = self.shape.iter().zip(self.strides.iter().zip(&contiguous));
        let mut same = axes.filter(|(extent, _)| **extent > 1);
        self.offset == 0 && elements(&self.shape) == inputs && same.all(|(_, (a, b))| a == b)
    }

    /// Element of the input for each element of the output, in order.
    pub fn indices(&self) -> impl Iterator<Item = u64> {
        let count = elements(&self.shape);
        let mut at = vec![0u64; self.shape.len()];
        let mut place = self.offset as i64;
        (0..count).map(move |_| {
            let now = place as u64;
            for axis in (0..at.len()).rev() {
                at[axis] += 1;
                place += self.strides[axis];
                if at[axis] < self.shape[axis] {
                    break;
                }
                place -= self.strides[axis] * self.shape[axis] as i64;
                at[axis] = 0;
            }
            now
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(view: &View) -> Vec<u64> {
        view.indices().collect()
    }

    #[test]
    fn views_read_what_their_names_say() {
        let t = View::transpose(&[2, 3], &[1, 0]);
        assert_eq!(
            (t.shape.as_slice(), read(&t)),
            (&[3, 2][..], vec![0, 3, 1, 4, 2, 5])
        );
        assert_eq!(read(&View::slice(&[2, 3], 1, 2, -2, 2)), [2, 0, 5, 3]);
        assert_eq!(View::slice(&[2, 3], 1, 2, -2, 2).reach(), (0, 5));
        let e = View::expand(&[2, 1], &[2, 2, 2]).unwrap();
        assert_eq!(read(&e), [0, 0, 1, 1, 0, 0, 1, 1]);
        assert_eq!(View::expand(&[3], &[2]), None);
        assert_eq!(View::expand(&[1, 1], &[2]), None);
        assert_eq!(read(&View::reshape(&[])), [0]);
    }

    #[test]
    fn aliases_are_reshapes() {
        assert!(View::reshape(&[2, 1, 3]).is_alias(6));
        assert!(View::transpose(&[1, 6], &[1, 0]).is_alias(6));
        assert!(!View::transpose(&[2, 3], &[1, 0]).is_alias(6));
        assert!(!View::slice(&[2, 3], 0, 0, 1, 1).is_alias(6));
    }

    #[test]
    fn reach_is_the_range_of_indices() {
        for view in [
            View::transpose(&[2, 3, 4], &[2, 0, 1]),
            View::slice(&[5, 4], 0, 4, -1, 3),
            View::expand(&[3, 1], &[2, 3, 5]).unwrap(),
        ] {
            let all = read(&view);
            let (low, high) = view.reach();
            assert_eq!(i128::from(*all.iter().min().unwrap()), low);
            assert_eq!(i128::from(*all.iter().max().unwrap()), high);
        }
    }
}
