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

    /// The first element of the input, if it reads a run of them in order: its output is a part of the input's bytes.
    pub fn is_run(&self) -> Option<u64> {
        let contiguous = contiguous(&self.shape);
        let axes = self.shape.iter().zip(self.strides.iter().zip(&contiguous));
        let mut same = axes.filter(|(extent, _)| **extent > 1);
        same.all(|(_, (a, b))| a == b).then_some(self.offset)
    }

    /// The view that reads what `next` reads of this view's output, if that is one.
    ///
    /// Each step of `next` along an axis must be a step along one axis of this view's output, and no sum of them may carry into the
    /// axis before: then steps map to steps.
    pub fn then(&self, next: &View) -> Option<View> {
        // Axes that follow each other in memory count as one, so that fewer steps carry.
        let mut axes: Vec<(i64, i64)> = Vec::with_capacity(self.shape.len());
        for (extent, stride) in self.shape.iter().zip(&self.strides) {
            let extent = i64::try_from(*extent).ok()?;
            match axes.last_mut() {
                _ if extent == 1 => {}
                Some((e, s)) if stride.checked_mul(extent) == Some(*s) => {
                    (*e, *s) = (e.checked_mul(extent)?, *stride);
                }
                _ => axes.push((extent, *stride)),
            }
        }
        // For each axis its weight in the output, its first place and the span of places that `next` reads.
        let mut weight = 1i64;
        let mut rest = i64::try_from(next.offset).ok()?;
        let mut span = vec![(0i64, 0i64, 0i64); axes.len()];
        for (axis, (extent, _)) in axes.iter().enumerate().rev() {
            let place = match axis {
                0 => rest,
                _ => rest % extent,
            };
            span[axis] = (weight, place, place);
            rest /= extent;
            weight = weight.checked_mul(*extent)?;
        }
        let mut offset = i64::try_from(self.offset).ok()?;
        for ((_, place, _), (_, stride)) in span.iter().zip(&axes) {
            offset = offset.checked_add(place.checked_mul(*stride)?)?;
        }
        let mut strides = Vec::with_capacity(next.shape.len());
        for (extent, step) in next.shape.iter().zip(&next.strides) {
            if *extent == 1 || *step == 0 {
                strides.push(0);
                continue;
            }
            // The outermost axis that a step moves along: the first whose weight it reaches.
            let axis = span.iter().position(|(weight, ..)| *weight <= step.abs())?;
            let (weight, low, high) = &mut span[axis];
            if step % *weight != 0 {
                return None;
            }
            let steps = step / *weight;
            let end = steps.checked_mul(i64::try_from(*extent).ok()? - 1)?;
            match end < 0 {
                true => *low += end,
                false => *high += end,
            }
            strides.push(steps.checked_mul(axes[axis].1)?);
        }
        let inside = |((_, low, high), (extent, _)): (&(i64, i64, i64), &(i64, i64))| {
            *low >= 0 && high < extent
        };
        span.iter().zip(&axes).all(inside).then_some(View {
            shape: next.shape.clone(),
            strides,
            offset: u64::try_from(offset).ok()?,
        })
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
    fn views_of_views_are_views_where_steps_do_not_carry() {
        let both = |first: &View, next: &View| -> bool {
            let Some(one) = first.then(next) else {
                return false;
            };
            let all = read(first);
            let want: Vec<u64> = next.indices().map(|i| all[i as usize]).collect();
            assert_eq!(read(&one), want, "{first:?} {next:?}");
            true
        };
        let t = View::transpose(&[4, 6], &[1, 0]);
        // Back again, and split in front of it.
        assert!(both(&t, &View::transpose(&[6, 4], &[1, 0])));
        assert!(both(&t, &View::reshape(&[2, 3, 4])));
        assert!(both(&t, &View::slice(&[6, 4], 0, 5, -2, 3)));
        assert!(both(&t, &View::slice(&[6, 4], 1, 1, 2, 2)));
        assert!(both(&t, &View::expand(&[6, 4], &[3, 6, 4]).unwrap()));
        assert!(both(
            &View::reshape(&[24]),
            &View::transpose(&[4, 6], &[1, 0])
        ));
        let row = View::slice(&[4, 6], 0, 2, 1, 1);
        assert!(both(&row, &View::transpose(&[2, 3], &[1, 0])));
        let wide = View::expand(&[4, 1], &[4, 6]).unwrap();
        assert!(both(&wide, &View::transpose(&[4, 6], &[1, 0])));
        // One axis of what was two that do not follow each other.
        assert!(!both(&t, &View::reshape(&[24])));
        assert!(!both(&t, &View::reshape(&[3, 8])));
        let diagonal = View {
            shape: vec![4],
            strides: vec![5],
            offset: 0,
        };
        assert!(!both(&t, &diagonal));
        assert!(both(&t, &View::slice(&[24], 0, 8, 1, 4)));
        assert!(!both(&t, &View::slice(&[24], 0, 3, 1, 2)));
    }

    #[test]
    fn runs_are_parts_of_the_bytes() {
        assert_eq!(View::slice(&[4, 6], 0, 2, 1, 2).is_run(), Some(12));
        assert_eq!(View::slice(&[1, 6], 1, 2, 1, 3).is_run(), Some(2));
        assert_eq!(View::slice(&[4, 6], 1, 2, 1, 2).is_run(), None);
        assert_eq!(View::slice(&[6], 0, 4, -1, 2).is_run(), None);
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
