//! What a schedule needs of a chip besides memory: lanes, loops, DMA channels, semaphores.
//!
//! Models: the counts that the emitted program depends on and that a chip file can change. Leaves out: `queue.depth`, because
//! operations wait only for what was pushed before them, so that a full queue delays and never blocks for good. Invariant: a
//! program whose needs a chip meets never traps on one of these limits.

use crate::chip::Chip;

/// What a program needs; 0: nothing of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Lanes of 32 bits, exactly: rows and buffers of vectors have this length.
    pub lanes: u64,
    /// Hardware loops that nest in a kernel.
    pub loop_depth: u64,
    /// Semaphores of a tile.
    pub semaphores: u64,
    /// The largest value that a semaphore reaches.
    pub counter: u64,
    /// Waits, and signals, of one operation.
    pub per_op: u64,
}

impl Needs {
    /// The first limit that the chip does not keep: what is needed and what there is.
    pub fn missing(&self, chip: &Chip) -> Option<String> {
        let tvp = &chip.tvp;
        let (lanes_32, lanes_16) = (u64::from(tvp.lanes_32), u64::from(tvp.lanes_16));
        if self.lanes > 0 && lanes_32 != self.lanes {
            return Some(format!(
                "needs {} lanes of 32 bits, tvp.lanes_32 is {lanes_32}",
                self.lanes
            ));
        }
        // Predicates of both widths come from comparisons of 16-bit lanes.
        if self.lanes > lanes_16 {
            return Some(format!(
                "needs {} lanes of 16 bits, tvp.lanes_16 is {lanes_16}",
                self.lanes
            ));
        }
        let largest = u64::from(u32::MAX >> (32 - chip.semaphores.bits.clamp(1, 32)));
        [
            (
                "nested vector loops",
                self.loop_depth,
                "tvp.loop_depth",
                u64::from(tvp.loop_depth),
            ),
            (
                "semaphores",
                self.semaphores,
                "semaphores.count",
                u64::from(chip.semaphores.count),
            ),
            (
                "waits or signals of an operation",
                self.per_op,
                "semaphores.per_op",
                u64::from(chip.semaphores.per_op),
            ),
        ]
        .into_iter()
        .find(|(_, needed, _, there)| needed > there)
        .map(|(what, needed, key, there)| format!("needs {needed} {what}, {key} is {there}"))
        .or_else(|| {
            (self.counter > largest).then(|| {
                format!(
                    "needs semaphores that count to {}, semaphores.bits is {}: to {largest}",
                    self.counter, chip.semaphores.bits
                )
            })
        })
    }
}
