//! Time in integer picoseconds, and clocks whose edges are exact.
//!
//! A `u64` of picoseconds holds 213 days. Edge `n` of a clock is `floor(n * 1e12 / hz)`, computed from `n` each time, so edges never drift however
//! long the run. Leaves out clock gating, frequency changes and phase: every clock has edge 0 at time 0.
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Add, AddAssign, Sub, SubAssign};

/// A point in time, or a duration, in picoseconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Ps(pub u64);

impl Ps {
    pub const ZERO: Ps = Ps(0);
    /// The end of time, which no event reaches: "never".
    pub const MAX: Ps = Ps(u64::MAX);

    pub const fn saturating_add(self, other: Ps) -> Ps {
        Ps(self.0.saturating_add(other.0))
    }

    pub const fn saturating_sub(self, other: Ps) -> Ps {
        Ps(self.0.saturating_sub(other.0))
    }

    pub const fn checked_add(self, other: Ps) -> Option<Ps> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Ps(sum)),
            None => None,
        }
    }

    pub const fn checked_sub(self, other: Ps) -> Option<Ps> {
        match self.0.checked_sub(other.0) {
            Some(difference) => Some(Ps(difference)),
            None => None,
        }
    }

    /// For reports only: nothing that decides simulated time may use it.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / PS_PER_SECOND as f64
    }
}

impl Add for Ps {
    type Output = Ps;
    #[inline]
    #[track_caller]
    fn add(self, other: Ps) -> Ps {
        self.checked_add(other)
            .unwrap_or_else(|| panic!("{} ps + {} ps is past the end of time", self.0, other.0))
    }
}

impl Sub for Ps {
    type Output = Ps;
    #[inline]
    #[track_caller]
    fn sub(self, other: Ps) -> Ps {
        self.checked_sub(other)
            .unwrap_or_else(|| panic!("{} ps - {} ps is before time 0", self.0, other.0))
    }
}

impl AddAssign for Ps {
    #[inline]
    #[track_caller]
    fn add_assign(&mut self, other: Ps) {
        *self = *self + other;
    }
}

impl SubAssign for Ps {
    #[inline]
    #[track_caller]
    fn sub_assign(&mut self, other: Ps) {
        *self = *self - other;
    }
}

impl std::iter::Sum for Ps {
    fn sum<I: Iterator<Item = Ps>>(times: I) -> Ps {
        times.fold(Ps::ZERO, Ps::add)
    }
}

/// Exact, in the largest unit that is not below 1: `1.5 ns`, `12 ps`.
impl fmt::Display for Ps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name, digits) = match self.0 {
            0..1_000 => (1, "ps", 0),
            1_000..1_000_000 => (1_000, "ns", 3),
            1_000_000..1_000_000_000 => (1_000_000, "us", 6),
            1_000_000_000..PS_PER_SECOND => (1_000_000_000, "ms", 9),
            _ => (PS_PER_SECOND, "s", 12),
        };
        let (whole, rest) = (self.0 / unit, self.0 % unit);
        if rest == 0 {
            return f.pad(&format!("{whole} {name}"));
        }
        let fraction = format!("{rest:0digits$}");
        f.pad(&format!(
            "{whole}.{} {name}",
            fraction.trim_end_matches('0')
        ))
    }
}

const PS_PER_SECOND: u64 = 1_000_000_000_000;

/// An exact divisor by multiplication.
///
/// With `m = floor((2^64 - 1) / d) >= 2^64 / d - 1`, `x m / 2^64 > x / d - 1` for every `x < 2^64`: the estimate is the quotient or one less,
/// and one comparison of the remainder settles it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Divisor {
    d: u64,
    m: u64,
}

impl Divisor {
    const fn new(d: u64) -> Divisor {
        Divisor { d, m: u64::MAX / d }
    }

    #[inline]
    fn floor(self, x: u64) -> u64 {
        let q = ((u128::from(x) * u128::from(self.m)) >> 64) as u64;
        q + u64::from(x - q * self.d >= self.d)
    }

    #[inline]
    fn ceil(self, x: u64) -> u64 {
        let q = self.floor(x);
        q + u64::from(q * self.d != x)
    }
}

/// A clock of a whole number of hertz, edge 0 at time 0. A result past the end of time is [`Ps::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Clock {
    hz: u64,
    /// Picoseconds per cycle as a fraction in lowest terms: `ps / cycles`. Small for the frequencies in use (2.15 GHz is 20000/43), so that the
    /// products below fit 64 bits; where one does not, 128 bits take over.
    ps: Divisor,
    cycles: Divisor,
}

impl Clock {
    /// # Panics
    /// Unless 1 <= `hz` <= 10^12 (a cycle is at least a picosecond): whoever reads a chip description checks first, see [`Clock::try_new`].
    pub const fn new(hz: u64) -> Clock {
        match Clock::try_new(hz) {
            Some(clock) => clock,
            None => panic!("clock frequency outside 1 Hz..=1 THz"),
        }
    }

    /// `None` unless 1 <= `hz` <= 10^12.
    pub const fn try_new(hz: u64) -> Option<Clock> {
        if hz == 0 || hz > PS_PER_SECOND {
            return None;
        }
        let g = gcd(PS_PER_SECOND, hz);
        Some(Clock {
            hz,
            ps: Divisor::new(PS_PER_SECOND / g),
            cycles: Divisor::new(hz / g),
        })
    }

    pub const fn hz(self) -> u64 {
        self.hz
    }

    /// The time of edge `cycle`: `floor(cycle * 1e12 / hz)`.
    #[inline]
    pub fn edge(self, cycle: u64) -> Ps {
        match cycle.checked_mul(self.ps.d) {
            Some(product) => Ps(self.cycles.floor(product)),
            None => saturate(u128::from(cycle) * u128::from(self.ps.d) / u128::from(self.cycles.d)),
        }
    }

    /// The index of the last edge at or before `t`.
    #[inline]
    pub fn cycle_at(self, t: Ps) -> u64 {
        // floor(c ps / cycles) <= t  <=>  c ps < (t + 1) cycles  <=>  c <= ((t + 1) cycles - 1) / ps
        match t
            .0
            .checked_add(1)
            .and_then(|t| t.checked_mul(self.cycles.d))
        {
            Some(product) => self.ps.floor(product - 1),
            None => {
                (((u128::from(t.0) + 1) * u128::from(self.cycles.d) - 1) / u128::from(self.ps.d))
                    as u64
            }
        }
    }

    /// The index of the first edge at or after `t`.
    #[inline]
    pub fn next_cycle(self, t: Ps) -> u64 {
        // floor(c ps / cycles) >= t  <=>  c ps >= t cycles, as t is whole
        match t.0.checked_mul(self.cycles.d) {
            Some(product) => self.ps.ceil(product),
            None => {
                (u128::from(t.0) * u128::from(self.cycles.d)).div_ceil(u128::from(self.ps.d)) as u64
            }
        }
    }

    /// The time of the first edge at or after `t`.
    #[inline]
    pub fn next_edge(self, t: Ps) -> Ps {
        self.edge(self.next_cycle(t))
    }

    /// The edge `cycles` cycles after the first edge at or after `t`.
    #[inline]
    pub fn after(self, t: Ps, cycles: u64) -> Ps {
        match self.next_cycle(t).checked_add(cycles) {
            Some(cycle) => self.edge(cycle),
            None => Ps::MAX,
        }
    }

    /// The duration of `cycles` cycles, rounded up to a picosecond.
    #[inline]
    pub fn span(self, cycles: u64) -> Ps {
        match cycles.checked_mul(self.ps.d) {
            Some(product) => Ps(self.cycles.ceil(product)),
            None => saturate(
                (u128::from(cycles) * u128::from(self.ps.d)).div_ceil(u128::from(self.cycles.d)),
            ),
        }
    }

    /// The duration of `bytes` over a port of `bytes_per_cycle`: whole cycles, the last perhaps part full.
    ///
    /// # Panics
    /// If `bytes_per_cycle` is 0.
    #[inline]
    pub fn bytes(self, bytes: u64, bytes_per_cycle: u64) -> Ps {
        self.span(bytes.div_ceil(bytes_per_cycle))
    }
}

impl From<Clock> for u64 {
    fn from(clock: Clock) -> u64 {
        clock.hz
    }
}

impl TryFrom<u64> for Clock {
    type Error = String;
    fn try_from(hz: u64) -> Result<Clock, String> {
        Clock::try_new(hz).ok_or_else(|| format!("clock frequency {hz} Hz outside 1 Hz..=1 THz"))
    }
}

const fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn saturate(ps: u128) -> Ps {
    Ps(u64::try_from(ps).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const E12: u128 = 1_000_000_000_000;

    fn hertz() -> impl Strategy<Value = u64> {
        prop_oneof![
            1u64..=PS_PER_SECOND,
            (1u64..=10_000).prop_map(|mhz| mhz * 1_000_000),
            Just(1),
            Just(PS_PER_SECOND),
            Just(PS_PER_SECOND - 1),
            Just(2_150_000_000),
        ]
    }

    /// Mostly times of a run, sometimes anywhere in `u64`.
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![
            0u64..1_000_000,
            0u64..PS_PER_SECOND,
            any::<u64>(),
            Just(u64::MAX),
            Just(u64::MAX - 1)
        ]
    }

    proptest! {
        #[test]
        fn clock_is_exact(hz in hertz(), n in number()) {
            let clock = Clock::new(hz);
            let (h, x) = (u128::from(hz), u128::from(n));
            prop_assert_eq!(clock.edge(n), saturate(x * E12 / h));
            prop_assert_eq!(clock.span(n), saturate((x * E12).div_ceil(h)));
            let (last, first) = (u128::from(clock.cycle_at(Ps(n))), u128::from(clock.next_cycle(Ps(n))));
            prop_assert!(last * E12 / h <= x && (last + 1) * E12 / h > x);
            prop_assert!(first * E12 / h >= x && (first == 0 || (first - 1) * E12 / h < x));
            prop_assert_eq!(clock.next_edge(Ps(n)), saturate(first * E12 / h));
        }

        #[test]
        fn after_counts_edges(hz in hertz(), t in 0u64..PS_PER_SECOND, cycles in 0u64..1_000_000) {
            let clock = Clock::new(hz);
            prop_assert_eq!(clock.after(Ps(t), cycles), clock.edge(clock.next_cycle(Ps(t)) + cycles));
        }

        #[test]
        fn divisor_is_exact(x in any::<u64>(), d in prop_oneof![1u64..100_000, 1u64..]) {
            prop_assert_eq!(Divisor::new(d).floor(x), x / d);
            prop_assert_eq!(Divisor::new(d).ceil(x), x.div_ceil(d));
        }
    }

    #[test]
    fn clock_of_a_fractional_period() {
        let clock = Clock::new(2_150_000_000);
        let edges: Vec<u64> = (0..5).map(|n| clock.edge(n).0).collect();
        assert_eq!(edges, [0, 465, 930, 1395, 1860]);
        assert_eq!(
            clock.edge(2_150_000_000),
            Ps(PS_PER_SECOND),
            "a second holds exactly hz cycles"
        );
        assert_eq!(clock.span(1), Ps(466));
        assert_eq!(clock.bytes(129, 64), clock.span(3));
        assert_eq!(clock.bytes(0, 64), Ps::ZERO);
        assert_eq!(clock.after(Ps::MAX, 1), Ps::MAX);
    }

    #[test]
    fn display_is_exact() {
        for (ps, text) in [
            (0, "0 ps"),
            (999, "999 ps"),
            (1_500, "1.5 ns"),
            (1_000_001, "1.000001 us"),
            (3 * PS_PER_SECOND, "3 s"),
        ] {
            assert_eq!(Ps(ps).to_string(), text);
        }
        assert_eq!(format!("{:>7}", Ps(12)), "  12 ps");
    }

    #[test]
    fn frequency_limits() {
        assert_eq!(
            (Clock::try_new(0), Clock::try_new(PS_PER_SECOND + 1)),
            (None, None)
        );
        let json = serde_json::to_string(&Clock::new(7)).unwrap();
        assert_eq!(
            (json.as_str(), serde_json::from_str::<Clock>("7").unwrap()),
            ("7", Clock::new(7))
        );
        assert!(
            serde_json::from_str::<Clock>("0")
                .unwrap_err()
                .to_string()
                .contains("0 Hz outside")
        );
    }
}
