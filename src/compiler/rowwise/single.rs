//! Control code of a row-wise program that has a strip for every tile at most: the short operations between the large ones of a model.
//!
//! Models: all loads at once, spread over the DMA channels so that the latency of memory counts once; the kernels; the stores. What such
//! a stage does before its operands are there may stand apart: in front of other stages the loads of operands that are there long before
//! ([`Code::ahead`]), in front of the waits for the others what needs none of them ([`Code::prepare`]). Leaves out: the ring of
//! [`super::code`]: nothing is used twice, so nobody waits for what is free. Invariants: a store stands in its channel behind the loads
//! that it waits for; loads ahead have a channel that such stages use for nothing else, where there are two, because transfers of a channel
//! retire in order.

use super::Spread;
use super::code::{Code, IN_FULL, Moved, OUT_FULL, by_count};
use crate::compiler::emit::Text;
use crate::isa::image::Space;

/// Most channels that the loads are spread over.
const LOAD_CHANNELS: u64 = 4;

impl Code<'_> {
    /// The channel of loads ahead, and how many others there are.
    fn channel_ahead(&self) -> (u64, u64) {
        let channels = u64::from(self.site.chip.dma.channels);
        (
            self.site.dma(channels.saturating_sub(1)),
            channels.saturating_sub(1).max(1),
        )
    }

    /// Loads of the inputs that `ahead` names, in a scope of their own, where nothing but this text has been.
    pub(super) fn ahead(&self, text: &mut Text, ahead: &[bool]) {
        let l = self.layout;
        text.directive(".tile");
        self.registers(text);
        text.inst("rdsr c.strip, tile");
        if l.strips < u64::from(self.site.chip.tiles()) {
            text.block(&format!(
                "li c.t, {}
                bge c.strip, c.t, ahead_end # no work for this tile",
                l.strips
            ));
        }
        self.bounds(text);
        let mut at = Space::Tsram.own_base() + self.site.tsram;
        for (register, (_, bytes)) in ["c.base", "a.fixed", "a.pool"].iter().zip(l.areas()) {
            text.inst(&format!("li {register}, {at:#x}"));
            at += bytes;
        }
        let (channel, _) = self.channel_ahead();
        let clauses = [format!("signal {}, 1", self.semaphore(IN_FULL))];
        for (n, mut i) in self.inputs().enumerate() {
            if ahead[n] {
                // Its name is one of another scope.
                i.at = format!("{:#x}", Space::Hbm.own_base() + self.site.tensors[n]);
                self.load(text, &i, &clauses, channel);
            }
        }
        text.label("ahead_end");
    }

    /// Registers, and what needs no operand: in front of the waits for them.
    pub(super) fn prepare(&self, text: &mut Text, ahead: &[bool]) {
        let l = self.layout;
        self.registers(text);
        text.inst("rdsr c.strip, tile");
        self.bounds(text);
        text.block(
            "li c.base, addr(buf.ring)
            li a.fixed, addr(buf.fixed)
            li a.pool, addr(buf.pool)",
        );
        self.all_tiles(text);
        // With a tile's area of its own, nothing of another stage is there.
        if ahead.contains(&true) && l.resident() {
            text.block(&format!(
                "li c.t, {}
                bge c.strip, c.t, at.no_pool
                vrun k.pool, a.slot, 4
                at.no_pool:",
                l.strips
            ));
        }
    }

    /// A load into the tile's strip or what all strips have.
    fn load(&self, text: &mut Text, i: &Moved, clauses: &[String], channel: u64) {
        let base = match i.spread {
            Spread::Scalar => "a.pool",
            Spread::PerColumn => "a.fixed",
            _ => "c.base",
        };
        if base == "c.base" {
            self.part(text, i);
        } else {
            text.block(&format!(
                "li c.far, {}\nli c.len, {}",
                i.at,
                self.row(i.spread)
            ));
        }
        self.transfer(text, i, true, base, clauses, channel);
    }

    /// A strip for every tile, or none: all loads at once, over the channels; then the kernels and the stores. Behind [`Code::prepare`].
    pub(super) fn one_strip(&self, text: &mut Text, ahead: &[bool]) {
        let l = self.layout;
        let some_idle = l.strips < u64::from(self.site.chip.tiles());
        if some_idle {
            let out = if self.site.chained {
                "at.idle"
            } else {
                "at.done"
            };
            text.block(&format!(
                "li c.t, {}
                bge c.strip, c.t, {out} # no work for this tile",
                l.strips
            ));
        }
        let split = ahead.contains(&true);
        let full = self.semaphore(IN_FULL);
        // What every kernel reads comes last: it is as long as a row at most.
        let (slots, once): (Vec<_>, Vec<_>) = self
            .inputs()
            .zip(ahead)
            .filter_map(|(i, ahead)| (!ahead).then_some(i))
            .partition(|i| l.in_slot(i.spread));
        let channels = match split {
            true => self.channel_ahead().1,
            false => u64::from(self.site.chip.dma.channels).max(1),
        };
        let channels = channels.min(LOAD_CHANNELS);
        let clauses = [format!("signal {full}, 1")];
        let loads = self.program.inputs.len();
        for (n, i) in slots.iter().chain(&once).enumerate() {
            let channel = self.site.dma(n as u64 % channels);
            self.load(text, i, &clauses, channel);
        }
        text.comment("The kernels");
        if l.resident() && !split {
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
        let stores: Vec<Moved> = self.outputs().collect();
        for (n, o) in stores.iter().enumerate() {
            self.part(text, o);
            let mut clauses = Vec::new();
            if n == 0 {
                clauses.push(format!("wait {}, 1", self.semaphore(OUT_FULL)));
            }
            if n + 1 == stores.len() && self.site.chained {
                clauses.push(format!("signal {}, 1", self.ended()));
                // Stores of a channel retire in order.
                if let Some(done) = self.site.done {
                    clauses.push(match o.to_all && n == 0 {
                        true => format!("signal.dest {done}, 1"),
                        false => format!("signal.tiles c.all, {done}, 1"),
                    });
                }
            }
            self.transfer(text, o, false, "c.base", &clauses, self.channels().1);
        }
        self.site.drain(text, &[(self.ended().to_string(), 1)]);
        if !self.site.chained {
            text.label("at.done");
        }
        text.inst(self.site.leave());
        if some_idle && self.site.chained {
            text.label("at.idle");
            self.site.tell(text, "c.t", "c.len");
        }
        self.site.end(text);
    }
}
