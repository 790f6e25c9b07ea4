//! The energy of a run, from what was counted.
//!
//! Models: four parts, each a count of the run times a number of the chip (`energy.*`):
//!
//! | part | count | number |
//! |---|---|---|
//! | hbm | bits of the whole lines read and written | `energy.hbm` |
//! | ttu | two FLOP for each multiply-add of every `mm`, padding left out | `energy.ttu_fp4`, `ttu_fp8` or `ttu_bf16`, of the slower operand's rate |
//! | tvp | one FLOP a lane of FP32 for each instruction of an arithmetic or special slot, two for an FMA; 16-bit vectors and masked ones count the same | `energy.tvp` |
//! | static | time of the run | `energy.static` |
//!
//! Leaves out: SRAM, mesh and crossbar, whose share the chip's numbers for the tensor unit hold inside; control processors; the
//! network, which a run of one chip does not use; clocks that stop, voltage and temperature. Invariant: without a timed run there is
//! no energy.

use super::metrics::Measured;
use crate::chip;
use serde::Serialize;

/// Joules by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Energy {
    pub hbm: f64,
    pub ttu: f64,
    pub tvp: f64,
    /// Of the chip as long as the run took, whatever it did.
    #[serde(rename = "static")]
    pub idle: f64,
}

impl Energy {
    /// Of a run on a chip of these numbers.
    pub fn of(chip: &chip::Energy, run: &Measured) -> Energy {
        let femto = |count: f64, each: u32| count * f64::from(each) * 1e-15;
        let bytes = run.hbm_read_bytes as f64 + run.hbm_write_bytes as f64;
        Energy {
            hbm: femto(8.0 * bytes, chip.hbm_fj_per_bit),
            ttu: run.tensor_fj as f64 * 1e-15,
            tvp: femto(run.vector_flops as f64, chip.tvp_fj_per_flop),
            idle: run.time_s * f64::from(chip.static_mw) * 1e-3,
        }
    }

    /// Of all parts.
    pub fn total(&self) -> f64 {
        self.hbm + self.ttu + self.tvp + self.idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chip::Chip;

    #[test]
    fn parts_worked_by_hand() {
        let chip = Chip::preset("maia-200").unwrap();
        let run = Measured {
            time_s: 0.002,
            hbm_read_bytes: 750_000_000,
            hbm_write_bytes: 250_000_000,
            // 10^12 FLOP at 56 fJ.
            tensor_fj: 56_000_000_000_000,
            vector_flops: 1_000_000_000,
            ..Measured::default()
        };
        let energy = Energy::of(&chip.energy, &run);
        // 8 x 10^9 bit at 4 pJ; 300 fJ; 150 W.
        let want = [0.032, 0.056, 0.0003, 0.3];
        for (got, want) in [energy.hbm, energy.ttu, energy.tvp, energy.idle]
            .iter()
            .zip(want)
        {
            assert!((got - want).abs() < 1e-12, "{got}, {want}");
        }
        assert!((energy.total() - 0.3883).abs() < 1e-12);
        let json = serde_json::to_value(energy).unwrap();
        assert_eq!(json["static"], 0.3);
    }
}
