//! What limits an operation.
//!
//! Models: times of units, and which is largest. Leaves out: what the units have to do ([`super::op`]).

use serde::Serialize;

/// What limits an operation, in the words of `bound`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BoundUnit {
    Tensor,
    Vector,
    Hbm,
    Noc,
}

impl BoundUnit {
    /// The word in JSON and reports.
    pub fn name(self) -> &'static str {
        match self {
            BoundUnit::Tensor => "tensor",
            BoundUnit::Vector => "vector",
            BoundUnit::Hbm => "hbm",
            BoundUnit::Noc => "noc",
        }
    }
}

/// The roofline of an operation: over units, the least work that it needs / the unit's peak.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bound {
    /// The unit with the largest time.
    pub unit: BoundUnit,
    /// That time, in seconds.
    pub time_s: f64,
    /// Every unit with its time in seconds.
    pub units: Vec<(BoundUnit, f64)>,
}

impl Bound {
    /// The largest of the times of units.
    pub fn of(units: Vec<(BoundUnit, f64)>) -> Bound {
        let first = units.first().map_or(BoundUnit::Tensor, |u| u.0);
        let larger = |best: (BoundUnit, f64), u: (BoundUnit, f64)| match u.1 > best.1 {
            true => u,
            false => best,
        };
        let (unit, time_s) = units.iter().copied().fold((first, 0.0), larger);
        Bound {
            unit,
            time_s,
            units,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:.3} us (", self.unit.name(), self.time_s * 1e6)?;
        for (i, (unit, time)) in self.units.iter().enumerate() {
            let sep = if i == 0 { "" } else { ", " };
            write!(f, "{sep}{} {:.3}", unit.name(), time * 1e6)?;
        }
        f.write_str(")")
    }
}
