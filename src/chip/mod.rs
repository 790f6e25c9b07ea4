//! The chip description: every size, width, latency and rate that the other layers read.
//!
//! A [`Chip`] is plain data. Every number in it has one key (`tsram.size`, `noc.tile_port`), one row in
//! [`fields::FIELDS`] (unit, limits, meaning, getter and setter) and one [`Mark`] that says where the number comes from.
//! Loading a TOML file, `--set`, `chip show` and `chip check` all walk that one table, so they cannot disagree.
//!
//! - [`desc`]: the structs. [`fields`]: the table of keys. [`units`]: "2.15 GHz", "3 MiB" and the like.
//! - [`load`]: TOML, presets, `--set`. `check`: limits, also across keys. [`show`]: text and JSON views with derived figures.
//! - [`mapping`]: address mappings of an HBM channel as text.
//! - [`cost`]: peak-rate and port-width formulas for compiler and timing. [`bank`]: TSRAM bank conflicts of one access.
//!
//! Left out on purpose: queueing, arbitration and contention (they exist only in `timing`), and instruction semantics.
//!
//! Invariants: a chip that [`Chip::validate`] accepts has every field within the limits of its row; every field of every
//! preset carries a mark; no input makes this module panic.

pub mod bank;
mod check;
pub mod cost;
pub mod desc;
mod error;
pub mod fields;
pub mod load;
#[cfg(test)]
mod malformed_tests;
pub mod mapping;
pub mod show;
#[cfg(test)]
mod tests;
pub mod units;

pub use check::MAX_TILES;
pub use desc::{
    ChannelModel, Chip, Control, Csram, Dma, Energy, Hbm, HbmDevice, HbmPath, Mark, Network, Noc,
    Queue, Refresh, Semaphores, Tsram, Ttu, Tvp,
};
pub use error::{ChipError, Place, Problem};
pub use load::{DEVICES, PRESETS};
