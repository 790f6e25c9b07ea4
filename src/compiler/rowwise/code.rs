//! Control code of a row-wise program: every tile takes strips in turn, and moves them through a ring of slots.
//!
//! Models: loads on one channel, kernels, stores on another, each ordered by semaphores of the slot; what stays in SRAM is loaded once, at
//! the start. Leaves out: kernels. Invariants: an operation waits only for operations pushed before it, so that no queue, however
//! short, blocks for good; tile t takes strips t, t + tiles, ..

use super::graph::{Graph, Kind};
use super::kernels::variants;
use super::layout::{ELEMENT, Layout, Walk};
use super::passes::{Pass, passes};
use super::{Rowwise, Spread};
use crate::compiler::emit::Text;
use crate::compiler::limits::Needs;
use crate::compiler::stage::Site;
use crate::num::Dtype;

/// Semaphores: of the ring's slots, each as many as the ring has; then those of what is loaded once and of a streamed row.
const IN_FREE: u64 = 0;
pub(super) const IN_FULL: u64 = 1;
const OUT_FREE: u64 = 2;
pub(super) const OUT_FULL: u64 = 3;

/// What the program needs of a chip.
pub fn needs(program: &Rowwise, layout: &Layout) -> Needs {
    Needs {
        lanes: 0,
        loop_depth: 2,
        semaphores: 4 * layout.ring + 5,
        counter: program.inputs.len().max(program.outputs.len()).max(1) as u64,
        per_op: 2,
    }
}

/// A tensor that moves: its address, type, place in the slot.
pub(super) struct Moved {
    /// An expression.
    pub(super) at: String,
    pub(super) dtype: Dtype,
    pub(super) spread: Spread,
    pub(super) offset: u64,
    /// Elements from row to row in HBM, if they do not follow each other.
    pub(super) pitch: Option<u64>,
    /// Whether what is written goes to every tile's SRAM.
    pub(super) to_all: bool,
}

/// Control code under construction.
pub struct Code<'a> {
    pub program: &'a Rowwise,
    pub graph: &'a Graph,
    pub layout: &'a Layout,
    pub site: &'a Site,
}

impl Code<'_> {
    /// The semaphores of a kind are those of slot 0 and up.
    pub(super) fn semaphore(&self, kind: u64) -> u64 {
        self.site.semaphore + kind * self.layout.ring
    }

    /// Counts what is loaded once.
    fn once(&self) -> u64 {
        self.semaphore(4)
    }

    /// Says that the tile's last strip or row is done, where other stages follow.
    pub(super) fn ended(&self) -> u64 {
        self.once() + 5
    }

    /// Ends a stage: everything has been taken from the slots' semaphores that will be when the last strip is done.
    fn finish(&self, text: &mut Text, once: &[u64]) {
        let slots = (0..self.layout.ring)
            .flat_map(|slot| [IN_FREE, OUT_FREE].map(|kind| self.semaphore(kind) + slot));
        let all = [self.ended()].into_iter().chain(slots);
        let held: Vec<(String, u64)> = (all.chain(once.iter().copied()))
            .map(|semaphore| (semaphore.to_string(), 1))
            .collect();
        self.site.drain(text, &held);
        text.inst(self.site.leave());
        self.site.end(text);
    }

    /// If others follow: stages the signal that the next operation is the last, if there is no other strip. Clobbers c.t and c.near.
    fn last(&self, text: &mut Text) {
        if !self.site.chained {
            return;
        }
        let more = text.fresh("at.more");
        text.block(&format!(
            "rdsr c.t, tiles
            add c.t, c.t, c.strip
            li c.near, {strips}
            blt c.t, c.near, {more}
            signal {ended}, 1
            {more}:",
            strips = self.layout.strips,
            ended = self.ended()
        ));
    }

    /// Elements of a row of a tensor.
    pub(super) fn row(&self, spread: Spread) -> u64 {
        match spread {
            Spread::Full | Spread::PerColumn => self.program.cols,
            Spread::PerRow | Spread::Scalar => 1,
        }
    }

    /// Elements from row to row of a tensor whose rows are transferred one by one.
    fn pitch(&self, pitch: Option<u64>, spread: Spread) -> Option<u64> {
        let row = self.row(spread);
        if self.layout.across > 0 {
            return (spread == Spread::Full).then(|| pitch.unwrap_or(row));
        }
        pitch.filter(|p| *p != row && self.program.rows > 1)
    }

    pub(super) fn inputs(&self) -> impl Iterator<Item = Moved> {
        let all = self.program.inputs.iter().zip(&self.layout.inputs);
        all.map(|(i, offset)| Moved {
            at: format!("addr({})", i.name),
            dtype: i.dtype,
            spread: i.spread,
            offset: *offset,
            pitch: self.pitch(i.pitch, i.spread),
            to_all: false,
        })
    }

    pub(super) fn outputs(&self) -> impl Iterator<Item = Moved> {
        let all = self.program.outputs.iter().zip(&self.layout.outputs);
        let first = self.program.inputs.len();
        all.enumerate().map(move |(n, (o, offset))| Moved {
            at: format!("addr({})", o.name),
            dtype: o.dtype,
            spread: o.spread,
            offset: *offset,
            pitch: self.pitch(o.pitch, o.spread),
            to_all: self.site.is_local(first + n),
        })
    }

    fn single(&self) -> bool {
        self.layout.single(u64::from(self.site.chip.tiles()))
    }

    pub(super) fn channels(&self) -> (u64, u64) {
        (self.site.dma(0), self.site.dma(1))
    }

    /// Names registers.
    pub(super) fn registers(&self, text: &mut Text) {
        text.registers(&[
            ("c.strip", "strip at hand; of a streamed walk the row"),
            ("c.slot", "its slot of the ring"),
            ("c.first", "first row or element"),
            ("c.count", "rows or elements"),
            ("c.base", "address of the slot"),
            ("c.far", "address in HBM"),
            ("c.near", "address in SRAM"),
            ("c.len", "elements"),
            ("c.t", ""),
            ("c.chunk", "chunk of a streamed row"),
            ("a.slot", "arguments of kernels: the slot"),
            ("a.rows", "its per-row part"),
            ("a.fixed", "the fixed area"),
            ("a.pool", "the pool"),
            ("a.blocks", "blocks of rows"),
            ("a.rest", "rows beside"),
            ("c.all", "every tile, as a mask"),
        ]);
    }

    /// The mask of all tiles, if anything goes to them.
    pub(super) fn all_tiles(&self, text: &mut Text) {
        if self.site.done.is_some() || self.outputs().any(|o| o.to_all) {
            text.inst(&format!("li c.all, {}", self.site.all_tiles()));
        }
    }

    /// Emits the tile's program.
    pub fn emit(&self, text: &mut Text) {
        let l = self.layout;
        text.blank();
        text.directive(".tile");
        if self.single() {
            let all = vec![false; self.program.inputs.len()];
            self.prepare(text, &all);
            return self.one_strip(text, &all);
        }
        self.registers(text);
        self.all_tiles(text);
        if self.site.chained {
            text.block(&format!(
                "rdsr c.strip, tile
                li c.t, {}
                bge c.strip, c.t, stage_end # no work for this tile",
                l.strips
            ));
        }
        text.block(
            "rdsr c.strip, tile
            li c.slot, 0
            li a.fixed, addr(buf.fixed)
            li a.pool, addr(buf.pool)",
        );
        text.inst("rdsr c.t, tile");
        for slot in 0..l.ring {
            for kind in [IN_FREE, OUT_FREE] {
                text.inst(&format!("sem.post c.t, {}, 1", self.semaphore(kind) + slot));
            }
        }
        self.load_once(text);
        match l.walk {
            Walk::Streamed => self.streamed(text),
            _ => self.strips(text),
        }
    }

    /// What stays in SRAM: constants, scalars, rows for all columns.
    fn load_once(&self, text: &mut Text) {
        let l = self.layout;
        let (channel, _) = self.channels();
        let mut loads = 0;
        for i in self.inputs() {
            let (area, elements) = match i.spread {
                Spread::Scalar => ("a.pool", 1),
                Spread::PerColumn if l.walk != Walk::Streamed => ("a.fixed", self.program.cols),
                _ => continue,
            };
            loads += 1;
            text.block(&format!(
                "li c.far, {at}
                addi c.near, {area}, {offset}
                li c.len, {elements}
                signal {sem}, 1
                dma.{dtype}.f32 {channel}, c.near, c.far, c.len",
                at = i.at,
                offset = i.offset,
                sem = self.once(),
                dtype = i.dtype,
            ));
        }
        // Kernels run one after another: those behind this one see what it waited for.
        if loads > 0 {
            text.inst(&format!("wait {}, {loads}", self.once()));
        }
        if l.resident() {
            text.inst("vrun k.pool, a.slot, 4");
        }
    }

    /// The address of the slot at hand.
    fn slot(&self, text: &mut Text) {
        let l = self.layout;
        text.block(&format!(
            "muli c.base, c.slot, {}
            li c.t, addr(buf.ring)
            add c.base, c.base, c.t
            addi a.slot, c.base, 0
            addi a.rows, c.base, {}",
            l.slot_bytes, l.per_row
        ));
    }

    fn next_slot(&self, text: &mut Text) {
        let same = text.fresh("at.slot");
        text.block(&format!(
            "addi c.slot, c.slot, 1
            li c.t, {}
            blt c.slot, c.t, {same}
            li c.slot, 0
            {same}:",
            self.layout.ring
        ));
    }

    /// A transfer between HBM and the slot; `far` is done when `c.far` is the address.
    pub(super) fn transfer(
        &self,
        text: &mut Text,
        moved: &Moved,
        load: bool,
        base: &str,
        clauses: &[String],
        channel: u64,
    ) {
        let area = if moved.spread == Spread::PerRow && base == "c.base" {
            self.layout.per_row
        } else {
            0
        };
        text.inst(&format!("addi c.near, {base}, {}", area + moved.offset));
        for clause in clauses {
            text.inst(clause);
        }
        if let Some(pitch) = moved.pitch
            && self.layout.walk != Walk::Streamed
        {
            let far = pitch * u64::from(moved.dtype.bits() / 8);
            let count = match self.layout.across {
                0 => {
                    let near = self.row(moved.spread) * ELEMENT;
                    text.inst(&format!("li c.t, {near}"));
                    "c.count"
                }
                _ => {
                    let rows = self.program.rows;
                    text.block(&format!("muli c.t, c.count, {ELEMENT}\nli a.rest, {rows}"));
                    "a.rest"
                }
            };
            text.inst(&format!("li c.chunk, {far}"));
            text.inst(&match load {
                true => format!("dim {count}, c.t, c.chunk"),
                false => format!("dim {count}, c.chunk, c.t"),
            });
        }
        if moved.to_all {
            text.inst("mcast c.all");
        }
        let dtype = moved.dtype;
        text.inst(&match load {
            true => format!("dma.{dtype}.f32 {channel}, c.near, c.far, c.len"),
            false => format!("dma.f32.{dtype} {channel}, c.far, c.near, c.len"),
        });
    }

    /// `c.far` and `c.len` of a tensor's part of the strip.
    pub(super) fn part(&self, text: &mut Text, moved: &Moved) {
        let l = self.layout;
        let size = u64::from(moved.dtype.bits() / 8);
        let row = match l.walk {
            Walk::Flat => 1,
            _ => self.row(moved.spread),
        };
        let pitch = moved.pitch.filter(|_| l.across == 0);
        text.block(&format!(
            "li c.t, {}
            mul c.t, c.t, c.first
            li c.far, {}
            add c.far, c.far, c.t",
            size * pitch.unwrap_or(row),
            moved.at
        ));
        text.block(&match pitch {
            Some(_) => format!("li c.len, {row}"),
            None => format!("li c.t, {row}\nmul c.len, c.count, c.t"),
        });
    }

    /// Rows, elements or columns of a strip, and of the last.
    fn unit(&self) -> (u64, u64) {
        let l = self.layout;
        match l.walk {
            Walk::Flat if l.across > 0 => (l.across, l.last_cols / self.program.rows),
            Walk::Flat => (l.cols, l.last_cols),
            _ => (l.strip, l.last_strip),
        }
    }

    /// `c.first` and `c.count` of strip `c.strip`.
    pub(super) fn bounds(&self, text: &mut Text) {
        let (unit, last) = self.unit();
        let total = (self.layout.strips - 1) * unit + last;
        text.block(&format!(
            "li c.t, {unit}
            mul c.first, c.strip, c.t
            li c.count, {total}
            sub c.count, c.count, c.first
            min c.count, c.count, c.t"
        ));
    }

    /// The kernels that a strip may run, with their counts; their arguments of count.
    pub(super) fn kernels(&self, text: &mut Text) -> Vec<(String, u64)> {
        let l = self.layout;
        let (unit, last) = self.unit();
        if l.walk != Walk::Long {
            return variants("rows", unit, last, l.strips);
        }
        text.block(&format!(
            "li c.t, {block}
            divu a.blocks, c.count, c.t
            remu a.rest, c.count, c.t",
            block = l.block
        ));
        vec![("rows".to_owned(), unit)]
    }

    /// Runs a kernel on the slot at hand when so many loads have filled it and the stores, if there are any, have left it.
    fn launch(&self, text: &mut Text, name: &str, moved: (usize, usize), arguments: u64) {
        let (loads, stores) = moved;
        let slots = |kind| format!("{}(c.slot)", self.semaphore(kind));
        if loads > 0 {
            text.inst(&format!("wait {}, {loads}", slots(IN_FULL)));
            text.inst(&format!("signal {}, 1", slots(IN_FREE)));
        }
        if stores > 0 {
            text.inst(&format!("wait {}, 1", slots(OUT_FREE)));
            text.inst(&format!("signal {}, 1", slots(OUT_FULL)));
        }
        text.inst(&format!("vrun k.{name}, a.slot, {arguments}"));
    }

    fn strips(&self, text: &mut Text) {
        let l = self.layout;
        let loads: Vec<Moved> = self.inputs().filter(|i| l.in_slot(i.spread)).collect();
        let stores: Vec<Moved> = self.outputs().collect();
        text.blank();
        text.block(&format!(
            "at.next:
            li c.t, {}
            bge c.strip, c.t, at.done",
            l.strips
        ));
        self.bounds(text);
        self.slot(text);
        text.comment("Loads");
        for (n, i) in loads.iter().enumerate() {
            self.part(text, i);
            // Transfers of a channel start in order: what the first waited for holds for all.
            let mut clauses = vec![format!("signal {}(c.slot), 1", self.semaphore(IN_FULL))];
            if n == 0 {
                clauses.insert(0, format!("wait {}(c.slot), 1", self.semaphore(IN_FREE)));
            }
            self.transfer(text, i, true, "c.base", &clauses, self.channels().0);
        }
        text.comment("The kernel");
        let kernels = self.kernels(text);
        let moved = (loads.len(), stores.len());
        let launch = |text: &mut Text, name: &str| self.launch(text, name, moved, 6);
        by_count(text, &kernels, launch);
        text.comment("Stores");
        for (n, o) in stores.iter().enumerate() {
            self.part(text, o);
            let mut clauses = Vec::new();
            if n == 0 {
                clauses.push(format!("wait {}(c.slot), 1", self.semaphore(OUT_FULL)));
            }
            // They retire in order too.
            if n + 1 == stores.len() {
                clauses.push(format!("signal {}(c.slot), 1", self.semaphore(OUT_FREE)));
                self.last(text);
            }
            self.transfer(text, o, false, "c.base", &clauses, self.channels().1);
        }
        self.next_slot(text);
        text.block(
            "rdsr c.t, tiles
            add c.strip, c.strip, c.t
            jal r0, at.next
            at.done:",
        );
        self.finish(text, &[]);
    }

    /// Rows in chunks: the passes one after the other over all of a row.
    fn streamed(&self, text: &mut Text) {
        let l = self.layout;
        let [row_in_free, row_in_full, row_out_free, row_out_full] =
            [1, 2, 3, 4].map(|n| self.once() + n);
        let row_inputs: Vec<Moved> = self
            .inputs()
            .filter(|i| i.spread == Spread::PerRow)
            .collect();
        let row_outputs: Vec<Moved> = self
            .outputs()
            .filter(|o| o.spread == Spread::PerRow)
            .collect();
        text.inst("rdsr c.t, tile");
        for sem in [row_in_free, row_out_free] {
            text.inst(&format!("sem.post c.t, {sem}, 1"));
        }
        text.blank();
        text.block(&format!(
            "at.next:
            li c.t, {}
            bge c.strip, c.t, at.done
            li c.count, 1
            addi c.first, c.strip, 0",
            l.strips
        ));
        for (n, i) in row_inputs.iter().enumerate() {
            self.part(text, i);
            let mut clauses = vec![format!("signal {row_in_full}, 1")];
            if n == 0 {
                clauses.insert(0, format!("wait {row_in_free}, 1"));
            }
            self.transfer(text, i, true, "a.pool", &clauses, self.channels().0);
        }
        let all = passes(self.graph, self.program, false);
        if !row_inputs.is_empty() {
            text.inst(&format!("wait {row_in_full}, {}", row_inputs.len()));
            text.inst(&format!("signal {row_in_free}, 1"));
        }
        if !row_outputs.is_empty() {
            text.inst(&format!("wait {row_out_free}, 1"));
        }
        if all.is_empty() && !row_outputs.is_empty() {
            text.inst(&format!("signal {row_out_full}, 1"));
        }
        if all.is_empty() {
            self.last(text);
        }
        text.inst("vrun k.row_0, a.slot, 4");
        for (p, pass) in all.iter().enumerate() {
            self.pass(text, p, pass);
            if p + 1 == all.len() && !row_outputs.is_empty() {
                text.inst(&format!("signal {row_out_full}, 1"));
            }
            if p + 1 == all.len() {
                self.last(text);
            }
            text.inst(&format!("vrun k.row_{}, a.slot, 4", p + 1));
        }
        for (n, o) in row_outputs.iter().enumerate() {
            text.inst("addi c.first, c.strip, 0");
            text.inst("li c.count, 1");
            self.part(text, o);
            let mut clauses = Vec::new();
            if n == 0 {
                clauses.push(format!("wait {row_out_full}, 1"));
            }
            if n + 1 == row_outputs.len() {
                clauses.push(format!("signal {row_out_free}, 1"));
            }
            self.transfer(text, o, false, "a.pool", &clauses, self.channels().1);
        }
        text.block(
            "rdsr c.t, tiles
            add c.strip, c.strip, c.t
            jal r0, at.next
            at.done:",
        );
        self.finish(text, &[row_in_free, row_out_free]);
    }

    /// One pass over the chunks of row `c.strip`.
    fn pass(&self, text: &mut Text, p: usize, pass: &Pass) {
        let l = self.layout;
        let read = |n: usize| {
            let mut nodes = pass.nodes.iter();
            nodes.any(|id| self.graph.nodes[*id].kind == Kind::Input(n))
        };
        let loads: Vec<Moved> = (self.inputs().enumerate())
            .filter(|(n, i)| l.in_slot(i.spread) && read(*n))
            .map(|(_, i)| i)
            .collect();
        let outputs: Vec<Moved> = self.outputs().collect();
        let stores: Vec<&Moved> = pass.outputs.iter().map(|o| &outputs[*o]).collect();
        let top = text.fresh("at.chunk");
        text.blank();
        text.comment(&format!("Pass {p}"));
        text.block(&format!(
            "li c.chunk, 0
            {top}:
            li c.t, {chunk}
            mul c.first, c.chunk, c.t
            li c.count, {cols}
            sub c.count, c.count, c.first
            min c.count, c.count, c.t",
            chunk = l.cols,
            cols = self.program.cols
        ));
        self.slot(text);
        let place = |text: &mut Text, moved: &Moved| {
            let size = u64::from(moved.dtype.bits() / 8);
            let row = if moved.spread == Spread::Full {
                moved.pitch.unwrap_or(self.program.cols)
            } else {
                0
            };
            text.block(&format!(
                "li c.far, {row}
                mul c.far, c.far, c.strip
                add c.far, c.far, c.first
                muli c.far, c.far, {size}
                li c.t, {}
                add c.far, c.far, c.t
                addi c.len, c.count, 0",
                moved.at
            ));
        };
        for (n, i) in loads.iter().enumerate() {
            place(text, i);
            let mut clauses = vec![format!("signal {}(c.slot), 1", self.semaphore(IN_FULL))];
            if n == 0 {
                clauses.insert(0, format!("wait {}(c.slot), 1", self.semaphore(IN_FREE)));
            }
            self.transfer(text, i, true, "c.base", &clauses, self.channels().0);
        }
        let moved = (loads.len(), stores.len());
        let launch = |text: &mut Text, name: &str| self.launch(text, name, moved, 4);
        let kernels = variants(&format!("pass_{p}"), l.cols, l.last_cols, l.chunks);
        by_count(text, &kernels, launch);
        for (n, o) in stores.iter().enumerate() {
            place(text, o);
            let mut clauses = Vec::new();
            if n == 0 {
                clauses.push(format!("wait {}(c.slot), 1", self.semaphore(OUT_FULL)));
            }
            if n + 1 == stores.len() {
                clauses.push(format!("signal {}(c.slot), 1", self.semaphore(OUT_FREE)));
            }
            self.transfer(text, o, false, "c.base", &clauses, self.channels().1);
        }
        self.next_slot(text);
        text.block(&format!(
            "addi c.chunk, c.chunk, 1
            li c.t, {}
            blt c.chunk, c.t, {top}",
            l.chunks
        ));
    }
}

/// Bytes of a tensor's element in TSRAM are those of FP32.
const _: () = assert!(ELEMENT == 4);

/// Launches the kernel of as many elements as `c.count` says: of whole blocks, or of the last one where that is shorter.
pub(super) fn by_count(
    text: &mut Text,
    kernels: &[(String, u64)],
    launch: impl Fn(&mut Text, &str),
) {
    match kernels {
        [(name, _)] => launch(text, name),
        [(whole, count), (last, _)] => {
            let (short, both) = (text.fresh("at.short"), text.fresh("at.both"));
            text.inst(&format!("li c.t, {count}"));
            text.inst(&format!("bne c.count, c.t, {short}"));
            launch(text, whole);
            text.inst(&format!("jal r0, {both}"));
            text.label(&short);
            launch(text, last);
            text.label(&both);
        }
        _ => {}
    }
}
