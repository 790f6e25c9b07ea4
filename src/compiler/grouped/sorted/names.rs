//! The names in the text of a grouped product of many rows.
//!
//! Models: tensors, buffers, control data, semaphores, sizes, registers. Leaves out: what is done with them ([`super::code`]). Invariant: a name is
//! declared once, in the scope of the stage.

use super::code::{Emit, OF_Y, SINGLE};
use super::{block_bytes, control, own_rows, starts_bytes};
use crate::compiler::CompileError;
use crate::compiler::emit::TsramLayout;

impl Emit<'_> {
    pub(super) fn tensors(&mut self, mut at: u64) -> Result<(), CompileError> {
        let (p, op) = (self.p, &self.p.op);
        let shapes = [
            (
                "x",
                op.input.name(),
                format!("{}, {}", op.rows / op.fan, op.k),
            ),
            ("ids", "i32", op.rows.to_string()),
            ("experts", "u8", p.bytes().to_string()),
            ("y", op.output.name(), format!("{}, {}", op.rows, op.n)),
        ];
        for ((name, dtype, shape), at) in shapes.into_iter().zip(&self.site.tensors) {
            let class = if name == "ids" { "control" } else { "payload" };
            self.text.directive(&format!(
                ".tensor grouped_{name}, hbm, {dtype}, [{shape}], {class}, at {at:#x}"
            ));
        }
        let places = p.places();
        let mut layout = TsramLayout::of(self.site);
        layout.place("xbuf", p.slots * places.x)?;
        layout.place("ybuf", places.ys * places.y)?;
        if places.partial > 0 {
            layout.place("resting", places.partial)?;
        }
        layout.place("ring", p.ring * p.slot)?;
        layout.declare(&mut self.text);
        for (name, words) in control(op, self.all()) {
            self.text.directive(&format!(
                ".tensor {name}, tsram, i32, [{words}], control, at {at:#x}"
            ));
            at += 4 * words;
        }
        Ok(())
    }

    pub(super) fn names(&mut self) {
        let (p, op) = (self.p, &self.p.op);
        let first = self.site.semaphore;
        let places = p.places();
        let place = |n: u64| first + SINGLE + OF_Y + n * p.slots;
        for (name, value, comment) in [
            ("IDS", first, "semaphore: the own ids are there"),
            (
                "FULL",
                first + 1,
                "semaphore: chunks of weights that are there",
            ),
            ("FREE", first + 2, "semaphore: free slots of the ring"),
            ("SUMS", first + 3, "semaphore: panels of Y that are in SRAM"),
            (
                "REST",
                first + 4,
                "semaphore: panels of sums that rest in SRAM",
            ),
            (
                "LISTS",
                first + 5,
                "semaphore: blocks of rows by expert that are there",
            ),
            (
                "SPREAD",
                first + 6,
                "semaphore: the own block is everywhere",
            ),
            (
                "WRITTEN",
                first + 7,
                "semaphore: bands of Y that are written, for control: DONE is the tensor unit's",
            ),
            (
                "DONE",
                first + SINGLE,
                "semaphores, one per place: Y is written",
            ),
            (
                "XFULL",
                place(0),
                "semaphores, one per place: rows of X that are there, by tile",
            ),
            (
                "XFREE",
                place(1),
                "semaphores, one per place: tiles that are done with X",
            ),
            (
                "SENT",
                place(2),
                "semaphores, one per place: the own rows are everywhere",
            ),
            ("ROWS", op.rows, "ids"),
            ("OWN", own_rows(op, self.all()), "of them, of a tile"),
            (
                "BLOCK",
                block_bytes(op, self.all()),
                "bytes of a tile's rows by expert",
            ),
            ("ORDER", starts_bytes(op), "where the rows begin in it"),
            ("FAN", op.fan, "neighbours that share a row of X"),
            ("EXPERTS", op.experts, ""),
            ("GROUPS", p.groups, "of tiles"),
            ("TILES", p.tiles, "of a group"),
            ("K", op.k, ""),
            ("N", op.n, ""),
            ("DEPTH", p.depth.min(op.k), "of a part"),
            ("PARTS", p.parts(), ""),
            ("BANDS", p.bands, "of columns"),
            ("KC", p.kc, "of a chunk"),
            ("COLS", p.cols, "of a panel"),
            ("PANELS", p.panels, "of a band"),
            ("SUMS_OF", p.blocks(), "accumulators of a panel"),
            (
                "CHUNKS",
                p.bands * p.panels * p.chunks,
                "of a tile and expert",
            ),
            ("SHARE", p.share, "columns of a tile and band"),
            ("EXPERT", p.expert_bytes(), "bytes of an expert"),
            ("PIECES", p.pieces.count, "of a chunk"),
            ("PIECE", p.pieces.bytes, "bytes of one"),
            ("RING", p.ring, "slots"),
            ("SLOT", p.slot, "bytes of one"),
            ("MOST", p.most, "rows of a job"),
            ("PLACES", p.slots, "for parts of X"),
            ("TABLES", p.tables(), "of rows of jobs"),
            (
                "FROM",
                4 * super::TABLE_ROWS,
                "from the rows of Y to those of X",
            ),
            ("XBYTES", places.x, "of a place for rows of X"),
            ("XSCALES", places.scales, "where their scales begin"),
            ("YBYTES", places.y, "of a place for rows of Y"),
            ("YPLACES", places.ys, ""),
            ("LDA", p.lda, "bytes between rows of X"),
            ("LDSA", p.ldsa, "bytes between scales of X"),
            ("LDB", p.ldb(), "bytes between rows of a panel"),
            ("LDC", p.ldc, "bytes between rows of Y"),
            (
                "LDR",
                p.sums_pitch(),
                "bytes between rows of sums that rest",
            ),
            (
                "XLEFT",
                0,
                "of state: parts of the job in preparation to go",
            ),
            ("XPART", 8, "which is next in its band"),
            ("XROWS", 16, "rows of its expert in later jobs"),
            ("XCOUNT", 24, "its rows"),
            ("XTABLE", 32, "its table"),
            ("XBLOCK", 40, "the block its rows come from"),
            ("XHAS", 48, "rows of the expert in that block to go"),
            ("XAT", 56, "where the next lies"),
            ("TABLE", 64, "of the job"),
            ("YPLACE", 72, "of its sums"),
            ("YBEHIND", 80, "of those that are written"),
            ("BAND", 88, "bands to go"),
        ] {
            self.text.equ(name, value, comment);
        }
        self.text.registers(&[
            ("t0", "scratch"),
            ("t1", "scratch"),
            ("t2", "scratch"),
            ("t3", "scratch"),
            ("me", "tile of the group"),
            ("unit", "this tile"),
            ("mask", "tiles of the group"),
            ("wsrc", "this tile's first piece of expert 0"),
            ("lbuf", "slot that is loaded next"),
            ("le", "expert that is loaded"),
            ("lrows", "rows of it in later jobs"),
            ("lleft", "chunks of the job to load"),
            ("lat", "address of the next"),
            ("xe", "expert whose rows are prepared"),
            ("xp", "place that is prepared next"),
            ("place", "of the part"),
            ("count", "rows of the job"),
            ("buf", "slot of the next chunk"),
            ("left", "K of the panel to go"),
            ("pan", "panels to go"),
            ("ap", "rows of X from there on"),
            ("cp", "scratch"),
            ("acc", "accumulators"),
            ("part", "K before the part"),
            ("yrows", "rows of Y to write"),
            ("yat", "where the next one's number lies"),
            ("yfrom", "where it lies"),
            ("ydst", "the own columns of row 0 of Y"),
            ("valid", "their number"),
            ("base", "the part's rows of X"),
        ]);
    }
}
