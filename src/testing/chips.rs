//! Strategies for chips: one shape, other clocks, widths, depths and latencies.
//!
//! Models: values of `--set`, so that a failing case is a command line. Leaves out: what programs can see (clusters, tiles,
//! vector lanes, sizes, accumulator blocks), which is the [`Shape`] or stays as on `mini`. Invariant: every value drawn
//! is valid, alone and with the others.

use crate::chip::{Chip, ChipError};
use proptest::prelude::*;

/// Clusters and tiles: what a program can see of a chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Clusters.
    pub clusters: u16,
    /// Tiles in each.
    pub tiles_per_cluster: u16,
}

impl Shape {
    /// The shape of the chip `mini`.
    pub const MINI: Shape = Shape {
        clusters: 1,
        tiles_per_cluster: 2,
    };

    /// All tiles.
    pub fn tiles(self) -> u16 {
        self.clusters * self.tiles_per_cluster
    }

    /// `mini` with this shape.
    pub fn chip(self) -> Result<Chip, ChipError> {
        settings_chip(&self.settings())
    }

    fn settings(self) -> Vec<String> {
        vec![
            format!("clusters={}", self.clusters),
            format!("tiles_per_cluster={}", self.tiles_per_cluster),
        ]
    }
}

/// Any of a few shapes: one to three clusters of one to four tiles.
pub fn shapes() -> impl Strategy<Value = Shape> {
    (1u16..=3, 1u16..=4).prop_map(|(clusters, tiles_per_cluster)| Shape {
        clusters,
        tiles_per_cluster,
    })
}

/// `mini` with these `--set` values.
pub fn settings_chip(settings: &[String]) -> Result<Chip, ChipError> {
    let mut chip = Chip::preset("mini")?;
    chip.set_all(settings)?;
    Ok(chip)
}

/// Keys and the values that are drawn for them: the usual first, so that shrinking leads to it, then extremes.
const CHOICES: &[(&str, &[&str])] = &[
    ("clock", &["1 GHz", "2.15 GHz", "7 MHz", "1.618 GHz"]),
    ("dma.channels", &["4", "8"]),
    ("dma.outstanding", &["384", "1", "5"]),
    ("dma.request", &["256 B", "32 B", "1 KiB"]),
    ("dma.train", &["4 KiB", "8 KiB"]),
    ("dma.setup", &["32 cycles", "1 cycles", "500 cycles"]),
    ("cdma.outstanding", &["3072", "1", "7"]),
    ("cdma.request", &["256 B", "32 B", "4 KiB"]),
    ("noc.tile_port", &["256 B/cycle", "1 B/cycle", "7 B/cycle"]),
    ("noc.cluster_port", &["1024 B/cycle", "1 B/cycle"]),
    ("noc.stack_port", &["640 B/cycle", "3 B/cycle"]),
    ("noc.mesh_hop", &["4 cycles", "1 cycles"]),
    ("noc.cluster", &["8 cycles", "1 cycles", "90 cycles"]),
    ("noc.global", &["30 cycles", "1 cycles", "300 cycles"]),
    ("tsram.banks", &["32", "1", "256"]),
    ("tsram.dma_read", &["256 B/cycle", "1 B/cycle"]),
    ("tsram.dma_write", &["256 B/cycle", "2 B/cycle"]),
    ("tsram.tvp_load", &["512 B/cycle", "16 B/cycle"]),
    ("tsram.latency", &["4 cycles", "1 cycles", "100 cycles"]),
    ("csram.read", &["2048 B/cycle", "1 B/cycle"]),
    ("csram.write", &["1024 B/cycle", "5 B/cycle"]),
    ("ttu.k_fp8", &["32", "8"]),
    ("ttu.latency", &["32 cycles", "1 cycles", "900 cycles"]),
    ("ttu.operand_port", &["1088 B/cycle", "64 B/cycle"]),
    ("ttu.result_port", &["1024 B/cycle", "32 B/cycle"]),
    ("tvp.arithmetic_slots", &["3", "1"]),
    ("tvp.special_latency", &["8 cycles", "200 cycles"]),
    ("tvp.launch", &["16 cycles", "1 cycles", "1000 cycles"]),
    ("control.instruction", &["1 cycles", "9 cycles"]),
    (
        "control.tile_signal",
        &["4 cycles", "1 cycles", "700 cycles"],
    ),
    ("control.cluster_signal", &["20 cycles", "1 cycles"]),
    (
        "control.chip_signal",
        &["80 cycles", "1 cycles", "2000 cycles"],
    ),
    ("queue.depth", &["16", "1", "2"]),
    ("queue.push", &["8 cycles", "1 cycles", "100 cycles"]),
    ("semaphores.per_op", &["3", "8"]),
    ("hbm.interleave", &["256 B", "4 KiB"]),
    ("hbm.model", &["first-order", "exact"]),
    (
        "hbm.mapping",
        &[
            "blocks",
            "M1",
            "M3",
            "M5X",
            "co,pc,bg,ba,sid,ro,^pc=ro[0:0]",
        ],
    ),
    ("hbm.refresh", &["pb-bank", "none", "ab", "pb-blocking"]),
    ("hbm.path.request_noc", &["75 ns", "0 ns", "2000 ns"]),
    ("hbm.path.return_noc", &["90 ns", "0 ns"]),
];

/// `--set` values of a chip of this shape; [`settings_chip`] makes the chip.
pub fn settings(shape: Shape) -> impl Strategy<Value = Vec<String>> {
    let keys: Vec<_> = CHOICES
        .iter()
        .map(|(key, values)| {
            // About a third of the keys leave their usual value.
            let other = prop::sample::select(*values).prop_map(|v| v.to_owned());
            let value = prop_oneof![2 => Just(None), 1 => other.prop_map(Some)];
            value.prop_map(move |value| value.map(|v| format!("{key}={v}")))
        })
        .collect();
    keys.prop_map(move |chosen| {
        let mut all = shape.settings();
        all.extend(chosen.into_iter().flatten());
        all
    })
}
