//! Control code of a row-wise program that has a strip for every tile at most: the short operations between the large ones of a model.
//!
//! Models: all loads at once, spread over the DMA channels so that the latency of memory counts once; the kernels; the stores. Leaves
//! out: the ring of [`super::code`]: nothing is used twice, so nobody waits for what is free. Invariant: a store stands in its channel
//! behind the loads that it waits for.

use super::Spread;
use super::code::{Code, IN_FULL, Moved, OUT_FULL, by_count};
use crate::compiler::emit::Text;

/// Most channels that the loads are spread over.
const LOAD_CHANNELS: u64 = 4;

impl Code<'_> {
    /// A strip for every tile, or none: all loads at once, over the channels; then the kernels and the stores.
    pub(super) fn one_strip(&self, text: &mut Text) {
        let l = self.layout;
        text.inst("rdsr c.strip, tile");
        if l.strips < u64::from(self.site.chip.tiles()) {
            let out = if self.site.chained {
                "stage_end"
            } else {
                "at.done"
            };
            text.block(&format!(
                "li c.t, {}
                bge c.strip, c.t, {out} # no work for this tile",
                l.strips
            ));
        }
        self.bounds(text);
        text.block(
            "li c.base, addr(buf.ring)
            li a.fixed, addr(buf.fixed)
            li a.pool, addr(buf.pool)",
        );
        let full = self.semaphore(IN_FULL);
        // What every kernel reads comes last: it is as long as a row at most.
        let (slots, once): (Vec<_>, Vec<_>) = self.inputs().partition(|i| l.in_slot(i.spread));
        let channels = u64::from(self.site.chip.dma.channels).clamp(1, LOAD_CHANNELS);
        let clauses = [format!("signal {full}, 1")];
        let loads = slots.len() + once.len();
        for (n, i) in slots.iter().chain(&once).enumerate() {
            let base = match i.spread {
                Spread::Scalar => "a.pool",
                Spread::PerColumn => "a.fixed",
                _ => "c.base",
            };
            if base == "c.base" {
                self.part(text, i);
            } else {
                text.block(&format!(
                    "li c.far, addr({})\nli c.len, {}",
                    i.name,
                    self.row(i.spread)
                ));
            }
            let channel = self.site.dma(n as u64 % channels);
            self.transfer(text, i, true, base, &clauses, channel);
        }
        text.comment("The kernels");
        if l.resident() {
            text.inst("vrun k.pool, a.slot, 4");
        }
        text.block(&format!(
            "mv a.slot, c.base\naddi a.rows, c.base, {}",
            l.per_row
        ));
        let kernels = self.kernels(text);
        by_count(text, &kernels, |text, name| {
            if loads > 0 {
                text.inst(&format!("wait {full}, {loads}"));
            }
            text.inst(&format!("signal {}, 1", self.semaphore(OUT_FULL)));
            text.inst(&format!("vrun k.{name}, a.slot, 6"));
        });
        text.comment("Stores");
        let stores: Vec<Moved<'_>> = self.outputs().collect();
        for (n, o) in stores.iter().enumerate() {
            self.part(text, o);
            let mut clauses = Vec::new();
            if n == 0 {
                clauses.push(format!("wait {}, 1", self.semaphore(OUT_FULL)));
            }
            if n + 1 == stores.len() && self.site.chained {
                clauses.push(format!("signal {}, 1", self.ended()));
            }
            self.transfer(text, o, false, "c.base", &clauses, self.channels().1);
        }
        self.site.drain(text, &[(self.ended().to_string(), 1)]);
        if !self.site.chained {
            text.label("at.done");
        }
        text.inst(self.site.leave());
        self.site.end(text);
    }
}
