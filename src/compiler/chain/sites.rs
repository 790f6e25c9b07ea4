//! What stages may use of each tile.
//!
//! Models: the first bytes of each tile's SRAM, which hold the cycles of stages, tables of indices, what steers grouped products and the
//! control words of attention, each in a place of its own, because a run without data stores such words and nothing else; semaphores of stages in front of those
//! of the site; the ring of weights behind it; in between, where short stages are most of a step, what no other stage has ([`Near`]). Leaves out: what stages do with it. Invariant: sites are of the same chip for all stages
//! of a kind, so that a plan made for one is that of its text.

use super::{ChainError, WINDOW, experts};
use crate::chip::Chip;
use crate::compiler::attention::CONTROL_BYTES;
use crate::compiler::graph::Graph;
use crate::compiler::linear::Stream;
use crate::compiler::movement::TABLE_BYTES;
use crate::compiler::stage::{MOST_TILES, Site};

/// Semaphores of stages.
pub const READY: usize = 2 * WINDOW;

/// Stages by which loads of a row-wise stage's constants are ahead of it: four short stages take about twice HBM's latency (estimate, from a
/// trace of gpt-oss-20b), and as many again where they wait behind weights.
pub const LEAD: usize = 8;
/// Semaphores of a stage that begins ahead: those of a row-wise program with one strip.
pub const NEAR_SEMAPHORES: u64 = 10;
/// Semaphores that must be left for all other stages: more than any of them takes.
const LEFT_SEMAPHORES: u64 = 128;
/// Most bytes of each tile's SRAM for [`Near`]; beyond, activations and constants are so large that latencies matter little.
const NEAR_BYTES: u64 = 640 << 10;

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
    /// What no other site has, for local values and for stages that begin before others end.
    pub near: Near,
}

/// SRAM and semaphores of their own for local values ([`super::place`]) and for row-wise stages that begin ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Near {
    /// First byte of SRAM.
    pub tsram: u64,
    pub bytes: u64,
    /// First semaphore, of [`LEAD`] + 1 sets of [`NEAR_SEMAPHORES`] that stages have in turn.
    pub semaphore: u64,
}

impl Sites {
    /// Divides a chip; `near`: whether to keep a part of it for [`Near`].
    ///
    /// # Errors
    /// A chip that is too small for any stage.
    pub fn new(
        graph: &Graph,
        stream: Option<&Stream>,
        near: bool,
        chip: &Chip,
    ) -> Result<Sites, ChainError> {
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
                local: Vec::new(),
                done: None,
                chained: true,
            },
        };
        let left = site.chip.semaphores.count.checked_sub(READY as u32);
        site.chip.semaphores.count = left
            .filter(|n| *n > 0)
            .ok_or_else(|| refuse(format!("needs more than {READY} semaphores")))?;
        site.semaphore += READY as u64;
        let mut kept = Near::default();
        let taken = (LEAD as u64 + 1) * NEAR_SEMAPHORES;
        let enough = u64::from(site.chip.semaphores.count) >= taken + LEFT_SEMAPHORES;
        if near && enough && chip.tiles() <= MOST_TILES {
            // A third at most: blocks of attention and experts have the rest.
            kept.bytes = (site.chip.tsram.size_bytes / 3).min(NEAR_BYTES) / 256 * 256;
            site.chip.tsram.size_bytes = (site.chip.tsram.size_bytes - kept.bytes) / 256 * 256;
            kept.tsram = site.tsram + site.chip.tsram.size_bytes;
            site.chip.semaphores.count -= taken as u32;
            kept.semaphore = site.semaphore + u64::from(site.chip.semaphores.count);
        }
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
            near: kept,
        })
    }
}
