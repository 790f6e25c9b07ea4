//! The text of a stream's start and of its stages.
//!
//! Models: what a tile pushes. All tiles run the same text; the tile's number gives its part of K, its columns and its pieces of a chunk. Which
//! chunk a slot holds is known here, so nothing is kept from stage to stage: each stage begins with constants for the ring's
//! place and for the load that comes next. Leaves out: waiting for inputs, which the chain does.
//!
//! A tile whose columns end before a pass begins multiplies one column of zeros and writes nothing: its ring turns like every other's.

use super::plan::{Packing, Pieces};
use super::stream::{Load, Stream, WEIGHTS};
use crate::compiler::emit::{Text, TsramLayout};
use crate::compiler::stage::{Site, Stage};
use crate::compiler::{CompileError, Plan};

/// Semaphores of a stage: A is there; sums are in SRAM; C is in HBM.
pub const SEMAPHORES: u64 = 3;

/// Consecutive chunks that are multiplied and followed by loads in the same way.
struct Turn {
    chunks: u64,
    /// They are the last of their pass: one chunk, of the part's rest.
    last: bool,
    load: Option<Load>,
}

/// The chunks of a pass in turns. The load that a product makes room for is that of the chunk a whole ring later.
fn turns(s: &Stream, layer: usize, pass: u64) -> Vec<Turn> {
    let p = &s.layers[layer];
    let mut turns: Vec<Turn> = Vec::new();
    for chunk in 0..p.chunks {
        let index = s.chunks_before(layer) + pass * p.chunks + chunk;
        let (last, load) = (chunk + 1 == p.chunks, s.load(index + s.slots));
        let pieces = |load: &Option<Load>| load.map(|l| l.pieces);
        match turns.last_mut() {
            Some(t) if t.last == last && pieces(&t.load) == pieces(&load) => t.chunks += 1,
            _ => turns.push(Turn {
                chunks: 1,
                last,
                load,
            }),
        }
    }
    turns
}

/// Registers for loads of chunks in these pieces, from `at` on: `pieces`, `piece`, `stride`, `step`, `at`.
fn loads(text: &mut Text, tiles: u64, load: Load) {
    let Pieces { count, bytes } = load.pieces;
    text.block(&format!(
        "li pieces, {count}
         li piece, {bytes}
         li stride, {}
         li step, {}
         mul t0, me, piece
         la at, {:#x}
         add at, at, t0",
        tiles * bytes,
        tiles * count * bytes,
        load.at
    ));
}

/// Pushes the load of the next chunk into the slot at `buf`.
fn push(text: &mut Text, s: &Stream) {
    text.block(&format!(
        "signal {}, 1
         dim pieces, piece, stride
         dma.u8.u8 {}, buf, at, piece
         add at, at, step",
        s.full, s.channel
    ));
}

/// Declares weights and ring, and pushes the loads of the first chunks.
pub fn start(text: &mut Text, s: &Stream) {
    text.comment(
        "The weights of all linear layers, and the ring through which each tile reads its own.",
    );
    text.directive(&format!(
        ".tensor {WEIGHTS}, hbm, u8, [{}], payload, at {:#x}",
        s.bytes, s.hbm
    ));
    text.directive(&format!(
        ".tensor linear_ring, tsram, u8, [{}], payload, at {:#x}",
        s.slot * s.slots,
        s.tsram
    ));
    text.registers(&[
        ("me", "this tile"),
        ("buf", "slot"),
        ("pieces", "of a chunk"),
        ("piece", "bytes of one"),
        ("stride", "from piece to piece"),
        ("step", "from chunk to chunk"),
        ("at", "address of the next"),
        ("cnt", "chunks"),
        ("t0", "scratch"),
    ]);
    text.directive(".tile");
    text.block("rdsr me, tile\nla buf, linear_ring");
    let mut index = 0;
    let tiles = s.layers[0].tiles;
    while index < s.slots {
        let Some(load) = s.load(index) else { break };
        let same = |i: &u64| s.load(*i).map(|l| l.pieces) == Some(load.pieces);
        let count = (index..s.slots).take_while(same).count() as u64;
        loads(text, tiles, load);
        text.inst(&format!("li cnt, {count}"));
        let label = format!("linear_fill_{index}");
        text.label(&label);
        push(text, s);
        text.block(&format!(
            "addi buf, buf, {}
             dec cnt
             bnez cnt, {label}",
            s.slot
        ));
        index += count;
    }
}

/// The stage of a layer.
pub fn stage(s: &Stream, layer: usize, site: &Site, a: u64, c: u64) -> Result<Stage, CompileError> {
    let p = &s.layers[layer];
    let no_plan = |reason: String| CompileError::NoPlan {
        op: p.op.to_string(),
        chip: site.chip.name.clone(),
        reason,
    };
    if u64::from(site.chip.semaphores.count) < SEMAPHORES {
        return Err(no_plan(format!(
            "needs {SEMAPHORES} semaphores, there are {}",
            site.chip.semaphores.count
        )));
    }
    let mut layout = TsramLayout::new(&site.chip);
    let (a_bytes, c_bytes) = p.buffers();
    let a_buf = site.tsram + layout.place("A", a_bytes)?;
    let c_buf = site.tsram + layout.place("C", c_bytes)?;
    let plan = describe(s, p);
    let mut text = Text::default();
    text.comment(&plan.op);
    let id = format!("linear_{layer}");
    for (name, shape, dtype, at) in [
        ("A", format!("{}, {}", p.op.m, p.op.k), p.op.input, a),
        (
            "C",
            format!("{}, {}, {}", p.parts, p.op.m, p.op.n),
            p.output(),
            c,
        ),
    ] {
        text.directive(&format!(
            ".tensor {id}_{name}, hbm, {dtype}, [{shape}], payload, at {at:#x}"
        ));
    }
    for (name, bytes, at) in [("A_buf", a_bytes, a_buf), ("C_buf", c_bytes, c_buf)] {
        text.directive(&format!(
            ".tensor {id}_{name}, tsram, u8, [{bytes}], payload, at {at:#x}"
        ));
    }
    let names = Names {
        s,
        p,
        layer,
        site,
        id,
    };
    names.registers(&mut text);
    names.fetch(&mut text);
    let mut pieces = None;
    for pass in 0..p.passes {
        names.begin(&mut text, pass);
        for turn in turns(s, layer, pass) {
            names.turn(&mut text, &turn, &mut pieces);
        }
        names.write(&mut text, pass);
    }
    text.inst(&format!("j {}_end", names.id));
    names.chunks(&mut text);
    text.label(&format!("{}_end", names.id));
    Ok(Stage {
        text: text.finish(),
        plan,
        crosses: false,
    })
}

/// What the parts of a stage's text need.
struct Names<'a> {
    s: &'a Stream,
    p: &'a Packing,
    layer: usize,
    site: &'a Site,
    /// Prefix of labels and tensors.
    id: String,
}

impl Names<'_> {
    fn semaphore(&self, index: u64) -> u64 {
        self.site.semaphore + index
    }

    fn registers(&self, text: &mut Text) {
        text.registers(&[
            ("me", "this tile"),
            ("buf", "slot"),
            ("pieces", "of a chunk; 0: nothing is left to load"),
            ("piece", "bytes of one"),
            ("stride", "from piece to piece"),
            ("step", "from chunk to chunk"),
            ("at", "address of the next"),
            ("cnt", "chunks"),
            ("t0", "scratch"),
            ("t1", ""),
            ("t2", ""),
            ("part", "of K"),
            ("col", "first column"),
            ("kc", "K of a chunk"),
            ("kl", "K of the last chunk of a pass"),
            ("old", "the pass has sums"),
            ("ap", "A of the chunk"),
            ("m", "rows"),
            ("n", "columns of the pass"),
            ("wide", "those that exist"),
            ("lda", "bytes between rows"),
            ("ldb", ""),
            ("ldc", ""),
            ("end", "of the ring"),
            ("scales", "from a chunk to its scales"),
            ("lds", "bytes between scales"),
            ("rb", "return address"),
        ]);
    }

    /// Finds the tile's part, and fetches A.
    fn fetch(&self, text: &mut Text) {
        let (p, op) = (self.p, &self.p.op);
        let first = self.s.chunks_before(self.layer);
        text.block("rdsr me, tile");
        match p.parts {
            1 => text.block(&format!(
                "li part, 0
                 muli col, me, {}
                 la t0, {id}_A
                 li kc, {}",
                p.width,
                p.depth,
                id = self.id
            )),
            parts => text.block(&format!(
                "li t1, {parts}
                 remu part, me, t1
                 divu col, me, t1
                 muli col, col, {}
                 muli t1, part, {}
                 li kc, {}
                 sub kc, kc, t1
                 li t2, {}
                 min kc, kc, t2          # K of this part
                 muli t1, t1, {}
                 la t0, {id}_A
                 add t0, t0, t1",
                p.width,
                p.depth,
                op.k,
                p.depth,
                op.input.bits() / 8,
                id = self.id
            )),
        }
        text.block(&format!(
            "la ap, {id}_A_buf
             li m, {}
             li lda, {}
             li t1, {}
             dim m, lda, t1
             signal {}, 1
             dma.{}.{} {}, ap, t0, kc
             addi kl, kc, -{}
             li ldb, {}
             li ldc, {}
             la buf, {:#x}
             la end, {:#x}",
            op.m,
            p.lda,
            op.input.bytes_for(op.k),
            self.semaphore(0),
            op.input,
            op.operand(),
            self.site.channel,
            (p.chunks - 1) * p.kc,
            p.ldb(),
            p.ldc,
            self.s.tsram + first % self.s.slots * self.s.slot,
            self.s.tsram + self.s.slots * self.s.slot,
            id = self.id
        ));
        if op.weights.scaled() {
            text.inst(&format!("li lds, {}", p.cols));
        }
    }

    /// Begins a pass: its columns.
    fn begin(&self, text: &mut Text, pass: u64) {
        let p = self.p;
        text.block(&format!(
            "li t0, {}
             sub t0, t0, col
             li wide, {}
             min wide, wide, t0
             li t0, 1
             max n, wide, t0
             li old, 0",
            p.op.n - pass * p.cols,
            p.pass_cols(pass)
        ));
        match pass {
            // Taken by the first product.
            0 => text.inst(&format!("wait {}, 1", self.semaphore(0))),
            _ => text.inst(&format!("la ap, {}_A_buf", self.id)),
        }
    }

    /// Multiplies the chunks of a turn. `pieces`: those that the registers hold.
    fn turn(&self, text: &mut Text, turn: &Turn, pieces: &mut Option<Option<Pieces>>) {
        let wanted = turn.load.map(|l| l.pieces);
        if *pieces != Some(wanted) {
            match turn.load {
                Some(load) => loads(text, self.p.tiles, load),
                None => text.inst("li pieces, 0"),
            }
            *pieces = Some(wanted);
        }
        let (k, whole) = match turn.last {
            true => ("mv kc, kl".to_owned(), self.p.last_kc()),
            false => (format!("li kc, {}", self.p.kc), self.p.kc),
        };
        if self.p.op.weights.scaled() {
            text.inst(&format!("li scales, {}", self.p.scales_at(whole)));
        }
        text.block(&format!(
            "{k}
             li cnt, {}
             jal rb, {}_chunks",
            turn.chunks, self.id
        ));
    }

    /// Writes the sums of a pass.
    fn write(&self, text: &mut Text, pass: u64) {
        let (p, id, dtype) = (self.p, &self.id, self.p.output());
        let (sums, stored) = (self.semaphore(1), self.semaphore(2));
        let bytes = dtype.bytes_for(1);
        text.block(&format!(
            "la t0, {id}_C_buf
             signal {sums}, 1
             mm.store.{dtype} r0, t0, m, n, ldc
             blez wide, {id}_none_{pass}
             la t1, {id}_C + {}
             muli t2, col, {bytes}
             add t1, t1, t2",
            pass * p.cols * bytes
        ));
        if p.parts > 1 {
            text.block(&format!(
                "muli t2, part, {}
                 add t1, t1, t2",
                p.op.m * p.op.n * bytes
            ));
        }
        text.block(&format!(
            "li t2, {}
             dim m, t2, ldc
             wait {sums}, 1
             signal {stored}, 1
             dma.{dtype}.{dtype} {}, t1, t0, wide
             sem.wait {stored}, 1
             j {id}_written_{pass}
             {id}_none_{pass}:
             sem.wait {sums}, 1
             {id}_written_{pass}:",
            p.op.n * bytes,
            self.site.channel
        ));
    }

    /// Subroutine: `cnt` chunks, each followed by the load that takes its slot.
    fn chunks(&self, text: &mut Text) {
        let (s, op, id) = (self.s, &self.p.op, &self.id);
        let (a, b) = (op.operand(), op.weights.dtype);
        text.block(&format!(
            "{id}_chunks:
             wait {}, 1
             beqz pieces, {id}_keep
             signal {}, 1
             {id}_keep:",
            s.full, s.free
        ));
        if op.weights.scaled() {
            text.block(&format!(
                "add t0, buf, scales
                 mm.scale.none.{} r0, r0, t0, lds",
                op.weights.scale_name()
            ));
        }
        text.block(&format!(
            "bnez old, {id}_add
             mm.new.{a}.{b}.mk.kn r0, ap, buf, m, n, kc, lda, ldb
             li old, 1
             j {id}_pushed
             {id}_add:
             mm.acc.{a}.{b}.mk.kn r0, ap, buf, m, n, kc, lda, ldb
             {id}_pushed:
             muli t0, kc, {}
             add ap, ap, t0
             beqz pieces, {id}_loaded
             wait {}, 1",
            a.bits() / 8,
            s.free
        ));
        push(text, s);
        text.block(&format!(
            "{id}_loaded:
             addi buf, buf, {}
             bne buf, end, {id}_in_ring
             la buf, {:#x}
             {id}_in_ring:
             dec cnt
             bnez cnt, {id}_chunks
             jalr r0, 0(rb)",
            s.slot, s.tsram
        ));
    }
}

/// The decisions in words.
fn describe(s: &Stream, p: &Packing) -> Plan {
    let mut plan = Plan {
        op: p.op.to_string(),
        facts: Vec::new(),
        split_k: p.parts,
        split_depth: p.depth,
        predicted_cycles: 0,
    };
    plan.fact(
        "grid",
        format!(
            "{} parts of K = {} x {} groups of {} columns",
            p.parts, p.depth, p.groups, p.width
        ),
    );
    plan.fact("passes", format!("{} of {} columns", p.passes, p.cols));
    plan.fact(
        "chunks",
        format!(
            "{} a pass, of K = {}, {} bytes in pieces of {}, the last of K = {}",
            p.chunks,
            p.kc,
            p.whole.total(),
            p.whole.bytes,
            p.last_kc()
        ),
    );
    plan.fact("ring", format!("{} slots of {} bytes", s.slots, s.slot));
    let (op, streamed) = (&p.op, p.bytes());
    let bytes = op.k * op.weights.bytes(op.n) + op.weights.scale_blocks(op.k) * op.n;
    plan.fact(
        "streamed",
        format!("{streamed} bytes for {bytes} of weights"),
    );
    plan
}
