//! Values of the graph, told by their numbers.
//!
//! Models: a row that a transfer writes to HBM or sends to several units and that agrees with neighbouring elements of a value of the graph to
//! [`super::TOLERANCE`] of the largest of them is taken to be them, from then on without the difference. Differences are those of the FP32 constants in
//! kernels, small in one stage; but each layer of a deep model about doubles what it is given, and from the eleventh layer on nothing could be
//! told from outputs. Leaves out: where a program keeps its values, which nobody says; whatever agrees with nothing, which stays as it is and shows
//! in the outputs. Invariants: a row is moved by no more than what outputs may differ by; outputs themselves are not among the values.

use super::TOLERANCE;

/// Numbers that are told at most; values past it are not, and differences in them stay.
const MOST: usize = 1 << 23;
/// Numbers of the shortest row. Of ten million, fewer than one agrees with so many by chance.
const SHORTEST: usize = 4;
/// Places looked at for one row: in rows of few different numbers all look alike.
const PLACES: usize = 1 << 12;

/// Values of a graph.
#[derive(Debug, Default)]
pub struct Known {
    numbers: Vec<f64>,
    /// One past the last number of each value.
    ends: Vec<usize>,
    /// Places of finite numbers, in their order.
    sorted: Vec<u32>,
}

impl Known {
    /// Adds a value, if there is room.
    pub fn add(&mut self, value: &[f64]) {
        if value.len() >= SHORTEST && self.numbers.len() + value.len() <= MOST {
            self.numbers.extend_from_slice(value);
            self.ends.push(self.numbers.len());
        }
    }

    /// To be called once all are added.
    pub fn sort(&mut self) {
        let numbers = &self.numbers;
        let places = 0..numbers.len() as u32;
        let finite = places.filter(|i| numbers[*i as usize].is_finite());
        self.sorted = finite.collect();
        let by = |a: &u32, b: &u32| numbers[*a as usize].total_cmp(&numbers[*b as usize]);
        self.sorted.sort_unstable_by(by);
    }

    /// The numbers that a row is, and by how much it is off them, as a part of what is allowed.
    pub fn find(&self, row: &[f64]) -> Option<(&[f64], f64)> {
        if row.len() < SHORTEST {
            return None;
        }
        let by = |a: &(usize, &f64), b: &(usize, &f64)| a.1.abs().total_cmp(&b.1.abs());
        let finite = row.iter().enumerate().filter(|x| x.1.is_finite());
        let (at, largest) = finite.max_by(by)?;
        let allowed = largest.abs() * TOLERANCE;
        let first = self
            .sorted
            .partition_point(|i| self.numbers[*i as usize] < largest - allowed);
        let places = self.sorted[first..].iter().map(|i| *i as usize);
        let near = places.take_while(|i| self.numbers[*i] <= largest + allowed);
        near.take(PLACES).find_map(|place| {
            let start = place.checked_sub(at)?;
            let end = self.ends[self.ends.partition_point(|end| *end <= start)];
            let numbers = self.numbers[start..end].get(..row.len())?;
            let off = |(x, y): (&f64, &f64)| if x == y { 0.0 } else { (x - y).abs() };
            let mut worst = 0.0f64;
            for pair in row.iter().zip(numbers) {
                let off = off(pair);
                if off.is_nan() || off > allowed {
                    return None;
                }
                worst = worst.max(off);
            }
            let part = if worst > 0.0 { worst / allowed } else { 0.0 };
            Some((numbers, part))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_told_by_their_numbers() {
        let mut known = Known::default();
        known.add(&[1.0, 2.0, -3.0, 4.0, 5.0]);
        known.add(&[2.0, -3.0, 4.0, 6.0, f64::INFINITY]);
        known.sort();
        let near = |x: &[f64]| x.iter().map(|x| x * (1.0 + 1e-6)).collect::<Vec<f64>>();
        let row = near(&[2.0, -3.0, 4.0, 5.0]);
        let (numbers, off) = known.find(&row).unwrap();
        assert_eq!(numbers, [2.0, -3.0, 4.0, 5.0]);
        assert!((0.09..0.11).contains(&off), "{off}");
        let row = near(&[-3.0, 4.0, 6.0, f64::INFINITY]);
        assert_eq!(known.find(&row).unwrap().0[2], 6.0);
        // Across two values, too far off, too short.
        assert_eq!(known.find(&[4.0, 5.0, 2.0, -3.0]), None);
        assert_eq!(known.find(&[2.0, -3.0, 4.0, 5.0002]), None);
        assert_eq!(known.find(&[2.0, -3.0, 4.0]), None);
        assert_eq!(known.find(&[f64::NAN; 4]), None);
        assert_eq!(Known::default().find(&row), None);
    }
}
