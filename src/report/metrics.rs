//! Rates of a run against the chip's peaks and the operation's bound: the keys of `run` and `bench` in JSON.

use super::energy::Energy;
use super::stalls::{self, KindStalls};
use crate::chip::{self, Chip, cost};
use crate::num::Dtype;
use serde_json::{Map, Value, json};

/// What an operation is known to need, whatever the program does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Work {
    /// Floating-point operations of its matrix products; 1 FMA = 2.
    pub flops: Option<u64>,
    /// Operand types of its matrix products.
    pub operands: Option<(Dtype, Dtype)>,
    /// The unit that bounds it, and the least time on that unit in seconds.
    pub bound: Option<(String, f64)>,
    /// Every resource with its least time in seconds; empty if the operation is not known.
    pub bounds: Vec<(String, f64)>,
    /// Parts in which K is summed separately.
    pub split_k: Option<u64>,
}

/// What a timed run measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// Cycles of the tile clock to the last output byte in HBM.
    pub cycles: u64,
    /// The same in seconds.
    pub time_s: f64,
    /// Bytes read from HBM.
    pub hbm_read_bytes: u64,
    /// Bytes written to HBM.
    pub hbm_write_bytes: u64,
    /// Multiply-adds of all `mm`, padding left out.
    pub macs: u64,
    /// Energy of the tensor units in fJ.
    pub tensor_fj: u128,
    /// Operations of the vector processors, an FMA as two, on whole FP32 vectors.
    pub vector_flops: u64,
    /// Where the engines' time went.
    pub stalls: Vec<KindStalls>,
}

/// The outcome of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Whether every element is within the stated tolerance.
    pub passed: bool,
    /// Largest absolute error.
    pub max_abs_err: f64,
    /// Largest error relative to the reference's magnitude.
    pub max_rel_err: f64,
    /// What it was compared with, in words.
    pub reference: String,
    /// The first element that fails, with what it is and should be.
    pub first_failure: Option<String>,
}

/// Everything that `run` and `bench` report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Name of the chip.
    pub chip: String,
    /// Its tile clock.
    pub clock_hz: u64,
    /// What the operation needs.
    pub work: Work,
    /// What the run took; absent for an untimed run.
    pub measured: Option<Measured>,
    /// Tensor peak at the operand types, in TFLOP/s.
    pub peak_tflops: Option<f64>,
    /// HBM peak in TB/s.
    pub hbm_peak_tbps: f64,
    /// The chip's energy per unit of work.
    pub energy: chip::Energy,
    /// Code and constants.
    pub program_bytes: u64,
    /// Host time of the simulation alone.
    pub wall_s: f64,
    /// Host time of compilation.
    pub compile_s: Option<f64>,
    /// Outcome of the check, if there was one.
    pub check: Option<Check>,
}

impl Metrics {
    /// Metrics on this chip, nothing measured yet.
    pub fn new(chip: &Chip, work: Work) -> Metrics {
        let peak = |(a, b)| cost::peak_flops(chip, a, b) as f64 / 1e12;
        Metrics {
            chip: chip.name.clone(),
            clock_hz: chip.clock_hz,
            peak_tflops: work.operands.map(peak),
            hbm_peak_tbps: cost::hbm_peak_bytes_per_s(chip) as f64 / 1e12,
            energy: chip.energy.clone(),
            work,
            ..Metrics::default()
        }
    }

    /// Time of a timed run that took any.
    fn timed(&self) -> Option<(&Measured, f64)> {
        let measured = self.measured.as_ref()?;
        (measured.time_s > 0.0).then_some((measured, measured.time_s))
    }

    /// FLOP of the operation, or of the executed products where the operation is not known.
    pub fn flops(&self) -> Option<u64> {
        let executed = || self.measured.as_ref().map(|m| m.macs.saturating_mul(2));
        self.work.flops.or_else(executed)
    }

    /// Rate of the operation.
    pub fn tflops(&self) -> Option<f64> {
        let (_, time_s) = self.timed()?;
        Some(self.flops()? as f64 / time_s / 1e12)
    }

    /// Rate as a percentage of the tensor peak.
    pub fn percent_of_peak(&self) -> Option<f64> {
        percent(self.tflops()?, self.peak_tflops?)
    }

    /// HBM traffic, both directions.
    pub fn hbm_tbps(&self) -> Option<f64> {
        let (m, time_s) = self.timed()?;
        Some((m.hbm_read_bytes as f64 + m.hbm_write_bytes as f64) / time_s / 1e12)
    }

    /// HBM traffic as a percentage of its peak.
    pub fn percent_of_hbm_peak(&self) -> Option<f64> {
        percent(self.hbm_tbps()?, self.hbm_peak_tbps)
    }

    /// The bound as a percentage of the time taken.
    pub fn percent_of_bound(&self) -> Option<f64> {
        let (_, time_s) = self.timed()?;
        percent(self.work.bound.as_ref()?.1, time_s)
    }

    /// What the run took out of the wall.
    pub fn energy(&self) -> Option<Energy> {
        let measured = self.measured.as_ref()?;
        Some(Energy::of(&self.energy, measured))
    }

    /// The bound in cycles of the tile clock, rounded up.
    pub fn bound_cycles(&self) -> Option<u64> {
        let (_, time_s) = self.work.bound.as_ref()?;
        // A whole number of cycles may come out of the division a hair above it.
        Some((time_s * self.clock_hz as f64 * (1.0 - 1e-12)).ceil() as u64)
    }

    fn bounds_json(&self) -> Option<Value> {
        let all = self.work.bounds.iter();
        let all: Map<String, Value> = all.map(|(name, s)| (name.clone(), json!(s))).collect();
        (!all.is_empty()).then_some(Value::Object(all))
    }

    /// The keys of the contract, null where they do not apply.
    pub fn json(&self) -> Value {
        let measured = self.measured.as_ref();
        let check = self.check.as_ref().map(|c| {
            let mut check = json!({
                "passed": c.passed,
                "max_abs_err": c.max_abs_err,
                "max_rel_err": c.max_rel_err,
                "reference": c.reference,
            });
            if let Some(failure) = &c.first_failure {
                check["first_failure"] = json!(failure);
            }
            check
        });
        json!({
            "chip": self.chip,
            "cycles": measured.map(|m| m.cycles),
            "time_s": measured.map(|m| m.time_s),
            "clock_hz": self.clock_hz,
            "flops": self.flops(),
            "tflops": self.tflops(),
            "peak_tflops": self.peak_tflops,
            "percent_of_peak": self.percent_of_peak(),
            "hbm_read_bytes": measured.map(|m| m.hbm_read_bytes),
            "hbm_write_bytes": measured.map(|m| m.hbm_write_bytes),
            "hbm_tbps": self.hbm_tbps(),
            "percent_of_hbm_peak": self.percent_of_hbm_peak(),
            "bound": self.work.bound.as_ref().map(|b| &b.0),
            "bound_time_s": self.work.bound.as_ref().map(|b| b.1),
            "percent_of_bound": self.percent_of_bound(),
            "bounds": self.bounds_json(),
            "stalls": measured.map(|m| stalls::json(&m.stalls)),
            "energy_j": self.energy(),
            "split_k": self.work.split_k,
            "program_bytes": self.program_bytes,
            "wall_s": self.wall_s,
            "compile_s": self.compile_s,
            "check": check,
        })
    }
}

fn percent(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| 100.0 * part / whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 23] = [
        "chip",
        "cycles",
        "time_s",
        "clock_hz",
        "flops",
        "tflops",
        "peak_tflops",
        "percent_of_peak",
        "hbm_read_bytes",
        "hbm_write_bytes",
        "hbm_tbps",
        "percent_of_hbm_peak",
        "bound",
        "bound_time_s",
        "percent_of_bound",
        "bounds",
        "stalls",
        "energy_j",
        "split_k",
        "program_bytes",
        "wall_s",
        "compile_s",
        "check",
    ];

    #[test]
    fn every_key_is_there_with_and_without_figures() {
        let chip = Chip::preset("mini").unwrap();
        let mut metrics = Metrics::new(&chip, Work::default());
        for measured in [None, Some(Measured::default())] {
            metrics.measured = measured;
            let json = metrics.json();
            let object = json.as_object().unwrap();
            for key in KEYS {
                assert!(object.contains_key(key), "{key}");
            }
            assert_eq!(object.len(), KEYS.len());
            // No time, no rate.
            assert!(object["tflops"].is_null() && object["percent_of_bound"].is_null());
        }
    }

    #[test]
    fn rates_worked_by_hand() {
        let chip = Chip::preset("maia-200-2ghz").unwrap();
        let work = Work {
            flops: Some(2_000_000_000_000),
            operands: Some((Dtype::E4m3, Dtype::E4m3)),
            bound: Some(("tensor".into(), 0.0005)),
            bounds: vec![("tensor".into(), 0.0005), ("hbm".into(), 0.0002)],
            split_k: Some(1),
        };
        let mut metrics = Metrics::new(&chip, work);
        metrics.measured = Some(Measured {
            cycles: 2_000_000,
            time_s: 0.001,
            hbm_read_bytes: 3_000_000_000,
            hbm_write_bytes: 500_000_000,
            ..Measured::default()
        });
        assert_eq!(metrics.tflops(), Some(2000.0));
        // 36 tiles x 32 x 32 x 32 FMA at 2 GHz.
        assert_eq!(metrics.peak_tflops, Some(4718.592));
        assert!((metrics.percent_of_peak().unwrap() - 42.385_526).abs() < 1e-5);
        assert_eq!(metrics.hbm_tbps(), Some(3.5));
        assert_eq!(metrics.percent_of_bound(), Some(50.0));
        assert_eq!(metrics.bound_cycles(), Some(1_000_000));
        assert_eq!(metrics.json()["bounds"]["hbm"], 0.0002);
    }
}
