//! A histogram of latencies in half CK: exact below 2^16, to one part in 1,024 above, in bounded memory.

/// Exact values.
const EXACT: u64 = 1 << 16;
const EXACT_BITS: u32 = 16;
/// Bits kept of larger values, the leading one included.
const KEPT: u32 = 11;

/// Counts of values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum: u128,
}

fn index(value: u64) -> usize {
    if value < EXACT {
        return value as usize;
    }
    let shift = value.ilog2() + 1 - KEPT;
    let step = (value >> shift) - (1 << (KEPT - 1));
    let octave = u64::from(value.ilog2() - EXACT_BITS);
    (EXACT + (octave << (KEPT - 1)) + step) as usize
}

/// The least value that has this index.
fn value(index: usize) -> u64 {
    let index = index as u64;
    if index < EXACT {
        return index;
    }
    let (octave, step) = (
        (index - EXACT) >> (KEPT - 1),
        (index - EXACT) & ((1 << (KEPT - 1)) - 1),
    );
    (step + (1 << (KEPT - 1))) << (octave as u32 + EXACT_BITS + 1 - KEPT)
}

impl Histogram {
    /// Counts a value.
    #[inline]
    pub fn add(&mut self, value: u64) {
        let at = index(value);
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        self.counts[at] += 1;
        self.total += 1;
        self.sum += u128::from(value);
    }

    /// Counts so many times more what came since this was `before`.
    pub fn repeat(&mut self, before: &Histogram, times: u64) {
        for (at, count) in self.counts.iter_mut().enumerate() {
            *count += times * (*count - before.counts.get(at).copied().unwrap_or(0));
        }
        self.total += times * (self.total - before.total);
        self.sum += u128::from(times) * (self.sum - before.sum);
    }

    /// Values counted.
    pub fn len(&self) -> u64 {
        self.total
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The mean; 0 of none.
    pub fn mean(&self) -> f64 {
        match self.total {
            0 => 0.0,
            n => self.sum as f64 / n as f64,
        }
    }

    /// The value below or at which a share `q` of all values lies; 0 of none.
    pub fn quantile(&self, q: f64) -> u64 {
        let rank = ((self.total as f64 * q).floor() as u64).min(self.total.saturating_sub(1));
        let mut seen = 0;
        for (at, &count) in self.counts.iter().enumerate() {
            seen += count;
            if seen > rank {
                return value(at);
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_within_a_thousandth() {
        let mut last = 0;
        for shift in 0..48 {
            for v in [1u64 << shift, (1 << shift) + 1, (3 << shift) - 1] {
                let back = value(index(v));
                assert!(back <= v && (v - back) * 1024 <= v, "{v} -> {back}");
                assert!(v >= EXACT || back == v);
            }
            assert!(index(1 << shift) >= last);
            last = index(1 << shift);
        }
    }

    #[test]
    fn quantiles_and_mean() {
        let mut h = Histogram::default();
        assert_eq!((h.quantile(0.5), h.mean(), h.is_empty()), (0, 0.0, true));
        for v in 1..=100 {
            h.add(v);
        }
        assert_eq!(
            (h.quantile(0.5), h.quantile(0.99), h.quantile(1.0)),
            (51, 100, 100)
        );
        assert_eq!((h.mean(), h.len()), (50.5, 100));
    }
}
