//! Stages that move data between tensors in HBM, and the small ones that fit no other lowering.
//!
//! Models: [`copy()`] (strided copies: layouts, concatenation, borders, append), [`gather()`] (rows by index), [`batched()`] (many small
//! products) and [`topk()`] (largest or smallest of each row). All tiles share the pieces of a stage; a piece goes HBM -> TSRAM -> HBM
//! through a ring of buffers, so that loads, work and stores overlap. Leaves out: the order of stages and where tensors lie (`chain`);
//! which forms of an operation come here (`legal`). Invariants: the contract of [`super::stage`]; no tile uses the SRAM or the
//! semaphores of another, but for a result that lies in the SRAM of every tile ([`Site::local`]); text does not grow with extents; operations wait only for operations pushed before them, so no queue can
//! deadlock.
//!
//! Reading order: [`copy()`], `pieces` (how a copy is cut), `ring`, then the others.

mod batched;
mod copy;
mod copy_code;
mod gather;
mod pieces;
mod ring;
mod topk;
mod topk_code;

pub use batched::{Axis, Batched, batched};
pub use copy::{Copy, Part, Source, copy};
pub use gather::{Gather, TABLE_BYTES, gather};
pub use topk::{TopK, topk};

use super::emit::Text;
use super::limits::Needs;
use super::stage::{Site, Stage};
use super::{CompileError, Plan};
use crate::num::Dtype;

/// Alignment of buffers in TSRAM: the request size of the DMA engines.
const ALIGN: u64 = 256;

/// A stage under construction: its text, and what of its site is taken.
struct Frame<'a> {
    site: &'a Site,
    text: Text,
    op: String,
    /// Bytes of the site's TSRAM that are taken.
    used: u64,
    /// Bytes that the site has.
    size: u64,
}

impl<'a> Frame<'a> {
    /// An empty stage; `tensors` is how many the site must place.
    fn new(op: String, site: &'a Site, tensors: usize) -> Result<Frame<'a>, CompileError> {
        let frame = Frame {
            site,
            text: Text::default(),
            op,
            used: 0,
            size: site.chip.tsram.size_bytes,
        };
        match site.tensors.len() == tensors {
            true => Ok(frame),
            false => {
                let got = site.tensors.len();
                Err(frame.no_plan(format!("it has {tensors} tensors, the site places {got}")))
            }
        }
    }

    fn no_plan(&self, reason: String) -> CompileError {
        CompileError::NoPlan {
            op: self.op.clone(),
            chip: self.site.chip.name.clone(),
            reason,
        }
    }

    /// Fails unless the site has what a schedule needs.
    fn needs(&self, needs: Needs) -> Result<(), CompileError> {
        match needs.missing(&self.site.chip) {
            None => Ok(()),
            Some(reason) => Err(self.no_plan(reason)),
        }
    }

    /// Free bytes of TSRAM, whole aligned blocks.
    fn free(&self) -> u64 {
        self.size.saturating_sub(self.used) / ALIGN * ALIGN
    }

    /// Declares tensor `index` of the site.
    fn tensor(&mut self, name: &str, index: usize, dtype: Dtype, shape: &[u64], class: &str) {
        let dims: Vec<String> = shape.iter().map(u64::to_string).collect();
        self.text.directive(&format!(
            ".tensor {name}, {}, {dtype}, [{}], {class}, at {:#x}",
            self.site.space(index),
            dims.join(", "),
            self.site.tensors[index]
        ));
    }

    /// Declares a buffer of bytes in TSRAM, the same on every tile.
    fn buffer(&mut self, name: &str, bytes: u64) -> Result<(), CompileError> {
        let offset = self.used;
        let end = offset.saturating_add(bytes);
        if end > self.size {
            return Err(CompileError::Tsram {
                name: name.to_owned(),
                bytes,
                end,
                limit: self.size,
            });
        }
        self.used = end.next_multiple_of(ALIGN);
        self.text.directive(&format!(
            ".tensor {name}, tsram, u8, [{bytes}], payload, at {:#x}",
            self.site.tsram + offset
        ));
        Ok(())
    }

    /// Number of tiles.
    fn tiles(&self) -> u64 {
        u64::from(self.site.chip.tiles())
    }

    /// DMA channel for loads and that for stores: a store that waits for its data holds up no load where there are two.
    fn channels(&self) -> (u64, u64) {
        let first = self.site.channel;
        match self.site.chip.dma.channels {
            0 | 1 => (first, first),
            _ => (first, first + 1),
        }
    }

    /// The stage, its plan in front as a comment.
    fn finish(self, plan: Plan) -> Stage {
        let mut text = Text::default();
        text.comment(&plan.to_string());
        text.raw(&self.text.finish());
        Stage {
            text: text.finish(),
            plan,
            crosses: false,
        }
    }
}

/// An empty plan.
fn plan(op: &str, predicted_cycles: u64) -> Plan {
    Plan {
        op: op.to_owned(),
        facts: Vec::new(),
        split_k: 1,
        split_depth: 0,
        predicted_cycles,
    }
}

/// Cycles that HBM takes for so many bytes, read and written, and one latency each way.
fn hbm_cycles(site: &Site, bytes: u128) -> u64 {
    let chip = &site.chip;
    let rate = u128::from(crate::chip::cost::hbm_peak_bytes_per_s(chip)).max(1);
    let path = u128::from(chip.hbm.path.total_ns()) * 2 * u128::from(chip.clock_hz) / 1_000_000_000;
    u64::try_from(bytes * u128::from(chip.clock_hz) / rate + path).unwrap_or(u64::MAX)
}
