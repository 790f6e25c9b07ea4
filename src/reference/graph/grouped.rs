//! Products of rows with the matrices of their experts.
//!
//! Models: `compiler::graph::Grouped` as its page states it, sums in f64. Leaves out: rounding, which the caller does.

use super::{EvalError, Operand};
use crate::compiler::graph::Grouped;

/// Y, unrounded.
///
/// # Errors
/// An id of no expert.
pub fn evaluate(op: &Grouped, x: &[Operand<'_>], place: &str) -> Result<Vec<f64>, EvalError> {
    let (a, ids, w, scales) = (&x[0], &x[1], &x[2], x.get(3));
    let (experts, k, n) = (w.extent(0), w.extent(1), w.extent(2));
    let blocks = scales.map_or(1, |s| s.extent(1));
    let mut y = Vec::with_capacity(ids.data.len() * n);
    for (r, id) in ids.data.iter().enumerate() {
        if !(0.0..experts as f64).contains(id) {
            return Err(EvalError::Index {
                place: place.to_owned(),
                index: *id,
                extent: experts as u64,
            });
        }
        let expert = *id as usize;
        let row = &a.data[r / op.fan as usize * k..][..k];
        let mut sums = vec![0.0; n];
        for (i, x) in row.iter().enumerate() {
            let weights = &w.data[(expert * k + i) * n..][..n];
            for (j, sum) in sums.iter_mut().enumerate() {
                let scale = scales.map_or(1.0, |s| {
                    e8m0(s.data[(expert * blocks + i / (k / blocks)) * n + j])
                });
                *sum += x * weights[j] * scale;
            }
        }
        y.extend(sums);
    }
    Ok(y)
}

/// The number of a scale's code.
fn e8m0(code: f64) -> f64 {
    match code as i32 {
        255 => f64::NAN,
        code => 2f64.powi(code - 127),
    }
}

#[cfg(test)]
mod tests {
    use crate::compiler::graph::{Builder, Grouped};
    use crate::isa::Dtype;
    use crate::reference::graph::evaluate;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Y of small integers, which no rounding changes; `None`: an id has no expert.
    fn run(shape: [u64; 5], ids: &[f64], scaled: bool) -> Option<(Vec<f64>, Vec<f64>)> {
        let [rows_in, fan, experts, k, n] = shape;
        let mut b = Builder::new("grouped");
        let mut inputs = BTreeMap::new();
        let mut operands = Vec::new();
        for (name, dtype, shape) in [
            ("x", Dtype::Bf16, vec![rows_in, k]),
            ("ids", Dtype::I32, vec![rows_in * fan]),
            ("w", Dtype::E4m3, vec![experts, k, n]),
            ("scales", Dtype::U8, vec![experts, k / 2, n]),
        ] {
            if name == "scales" && !scaled {
                continue;
            }
            operands.push(b.input(name, dtype, &shape).unwrap());
            let count = shape.iter().product::<u64>();
            let values = (0..count).map(|i| match name {
                "ids" => ids[i as usize],
                "scales" => (126 + i % 3) as f64,
                _ => (i * 7 % 15) as f64 - 7.0,
            });
            inputs.insert(name.to_owned(), values.collect::<Vec<f64>>());
        }
        let dtype = Dtype::F32;
        let y = b.grouped(Grouped { dtype, fan }, &operands).unwrap();
        b.output(y, "y").unwrap();
        let got = evaluate(&b.finish().unwrap(), &inputs).ok()?.remove(0);
        assert_eq!(got.shape, [rows_in * fan, n]);
        let [fan, k, n] = [fan, k, n].map(|x| x as usize);
        let mut want = Vec::new();
        for (r, id) in ids.iter().enumerate() {
            for j in 0..n {
                let term = |i: usize| {
                    let at = (*id as usize * k + i) * n + j;
                    let block = (*id as usize * (k / 2) + i / 2) * n + j;
                    let scale = match scaled {
                        true => [0.5, 1.0, 2.0][block % 3],
                        false => 1.0,
                    };
                    inputs["x"][r / fan * k + i] * inputs["w"][at] * scale
                };
                want.push((0..k).map(term).sum());
            }
        }
        Some((got.values, want))
    }

    proptest! {
        #[test]
        fn every_row_meets_its_expert(
            (shape, ids) in [1u64..4, 1..4, 1..5, 1..4, 1..5].prop_flat_map(|[rows, fan, experts, k, n]| {
                let ids = prop::collection::vec(0..experts, (rows * fan) as usize);
                (Just([rows, fan, experts, 2 * k, n]), ids)
            }),
            scaled: bool,
        ) {
            let ids: Vec<f64> = ids.iter().map(|i| *i as f64).collect();
            let (got, want) = run(shape, &ids, scaled).unwrap();
            prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn ids_of_no_expert_are_errors() {
        for bad in [-1.0, 3.0] {
            assert!(run([2, 1, 3, 2, 2], &[0.0, bad], false).is_none());
        }
        assert!(run([2, 1, 3, 2, 2], &[0.0, 2.0], false).is_some());
    }
}
