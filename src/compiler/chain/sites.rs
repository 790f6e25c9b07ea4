//! What stages may use of each tile.
//!
//! Models: the first bytes of each tile's SRAM, which hold the cycles of stages, tables of indices, what steers grouped products and the
//! control words of attention, each in a place of its own, because a run without data stores such words and nothing else; semaphores of stages in front of those
//! of the site; the ring of weights behind it. Leaves out: what stages do with it. Invariant: sites are of the same chip for all stages
//! of a kind, so that a plan made for one is that of its text.

use super::{ChainError, WINDOW, experts};
use crate::chip::Chip;
use crate::compiler::attention::CONTROL_BYTES;
use crate::compiler::graph::Graph;
use crate::compiler::linear::Stream;
use crate::compiler::movement::TABLE_BYTES;
use crate::compiler::stage::Site;

/// Semaphores of stages.
pub const READY: usize = 2 * WINDOW;

/// Sites without tensors.
#[derive(Clone, Debug)]
pub struct Sites {
    /// Bytes for the cycles of stages, from 0.
    pub marks: u64,
    /// First byte of tables of indices.
    pub tables: u64,
    /// First byte of what steers grouped products.
    pub grouped: u64,
    /// Of attention: it begins with its control words.
    pub attention: Site,
    /// Of all others.
    pub other: Site,
}

impl Sites {
    /// Divides a chip.
    ///
    /// # Errors
    /// A chip that is too small for any stage.
    pub fn new(graph: &Graph, stream: Option<&Stream>, chip: &Chip) -> Result<Sites, ChainError> {
        let refuse = |what: String| ChainError::Chip {
            chip: chip.name.clone(),
            what,
        };
        let largest = u64::from(u32::MAX >> (32 - chip.semaphores.bits.clamp(1, 32)));
        if u64::from(chip.tiles()) > largest {
            return Err(refuse(format!(
                "the {} tiles are counted by semaphores of {} bits",
                chip.tiles(),
                chip.semaphores.bits
            )));
        }
        // No node takes more than two stages.
        let marks = (8 * (2 * graph.nodes.len() as u64 + 1)).next_multiple_of(256);
        let tables = marks;
        let mut site = match stream {
            Some(stream) => stream.rest(chip),
            None => Site {
                chip: chip.clone(),
                tsram: 0,
                semaphore: 0,
                channel: 0,
                tensors: Vec::new(),
                chained: true,
            },
        };
        let left = site.chip.semaphores.count.checked_sub(READY as u32);
        site.chip.semaphores.count = left
            .filter(|n| *n > 0)
            .ok_or_else(|| refuse(format!("needs more than {READY} semaphores")))?;
        site.semaphore += READY as u64;
        let from = |first: u64| {
            let left = site.chip.tsram.size_bytes.checked_sub(first);
            let left = left.filter(|n| *n > 0).ok_or_else(|| {
                refuse(format!(
                    "its tile SRAM of {} bytes does not hold the {first} bytes that all stages have",
                    chip.tsram.size_bytes
                ))
            })?;
            let mut site = site.clone();
            site.chip.tsram.size_bytes = left;
            site.tsram += first;
            Ok(site)
        };
        let grouped = tables + TABLE_BYTES;
        let control =
            grouped.saturating_add(experts::control_bytes(graph, u64::from(chip.tiles())));
        let attention = from(control)?;
        let other = from(control.saturating_add(CONTROL_BYTES))?;
        Ok(Sites {
            marks,
            tables,
            grouped,
            attention,
            other,
        })
    }
}
