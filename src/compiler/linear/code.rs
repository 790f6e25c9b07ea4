//! The text of a stream's start and of its stages.
//!
//! Models: what a tile pushes. All tiles run the same text; the tile's number gives its part of K, its columns and its pieces of a chunk. Which
//! chunk a slot holds is known here, so nothing is kept from stage to stage: each stage begins with constants for the ring's
//! place and for the load that comes next. Leaves out: waiting for inputs, which the chain does.
//!
//! A tile whose columns end before a panel begins multiplies one column of zeros that nobody reads: its ring turns like every other's.

use super::plan::{Packing, Pieces};
use super::stream::{Load, Stream, WEIGHTS};
use crate::chip::Chip;
use crate::compiler::emit::{Text, TsramLayout};
use crate::compiler::stage::{Site, Stage};
use crate::compiler::{CompileError, Plan};
use crate::isa::ScaleType;
use crate::num::Dtype;

/// Semaphores of a stage: slices of A that are there; panels of sums that are in SRAM; C is in HBM; the slice of A that this tile sends has arrived
/// everywhere.
pub const SEMAPHORES: u64 = 4;

/// Consecutive chunks of alike panels that are followed by alike loads.
struct Turn {
    chunks: u64,
    /// Index in [`Packing::panels`].
    panel: usize,
    load: Option<Load>,
}

/// The chunks of a layer in turns. The load that a product makes room for is that of the chunk a whole ring later.
fn turns(s: &Stream, layer: usize) -> Vec<Turn> {
    let mut turns: Vec<Turn> = Vec::new();
    let mut index = s.chunks_before(layer);
    for (panel, (count, p)) in s.layers[layer].panels.iter().enumerate() {
        for _ in 0..count * p.chunks {
            let load = s.load(index + s.slots);
            let pieces = |load: &Option<Load>| load.map(|l| l.pieces);
            match turns.last_mut() {
                Some(t) if t.panel == panel && pieces(&t.load) == pieces(&load) => t.chunks += 1,
                _ => turns.push(Turn {
                    chunks: 1,
                    panel,
                    load,
                }),
            }
            index += 1;
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
    // Other stages have names of their own for registers.
    text.directive(".scope linear_start");
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
    text.directive(".endscope");
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
    let plan = describe(s, p, &site.chip);
    let mut text = Text::default();
    text.comment(&plan.op);
    let id = format!("linear_{layer}");
    let tensors = [
        ("A", format!("{}, {}", p.op.m, p.op.k), p.op.input, a),
        (
            "C",
            format!("{}, {}, {}", p.parts, p.op.m, p.op.n),
            p.output(),
            c,
        ),
    ];
    for (n, (name, shape, dtype, at)) in tensors.into_iter().enumerate() {
        let space = site.space(n);
        text.directive(&format!(
            ".tensor {id}_{name}, {space}, {dtype}, [{shape}], payload, at {at:#x}"
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
    let (mut pieces, mut panel) = (None, None);
    for turn in turns(s, layer) {
        names.turn(&mut text, &turn, &mut pieces, &mut panel);
    }
    names.write(&mut text);
    names.chunks(&mut text);
    text.label(&format!("{}_end", names.id));
    Ok(Stage {
        text: text.finish(),
        plan,
        crosses: !site.is_local(0),
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
            ("left", "columns from the panel's first on that exist"),
            ("kp", "K of the part"),
            ("kk", "K of the panel that is done"),
            ("kc", "K of the chunk"),
            ("most", "K of a chunk"),
            ("ap", "A of the chunk"),
            ("cp", "C of the panel"),
            ("acc", "accumulators of the panel"),
            ("m", "rows"),
            ("n", "columns of the panel"),
            ("lda", "bytes between rows"),
            ("ldb", ""),
            ("ldc", ""),
            ("end", "of the ring"),
            ("scales", "from a chunk to its scales"),
            ("wide", "columns of a panel"),
            ("one", "1"),
            ("rb", "return address"),
        ]);
    }

    /// Finds the tile's part, and fetches A: each tile a slice, which it sends to all tiles of its part. If every tile read all that it needs, the few
    /// channels that hold A would serve it as often as there are tiles, and the stream of weights would wait for them.
    fn fetch(&self, text: &mut Text) {
        let (s, p, op, id) = (self.s, self.p, &self.p.op, &self.id);
        let slot = s.chunks_before(self.layer) % s.slots;
        let (arrived, sent) = (self.semaphore(0), self.semaphore(3));
        text.block("rdsr me, tile");
        match p.parts {
            1 => text.block(&format!(
                "li part, 0
                 mv t2, me               # place in the part
                 la at, {id}_A
                 li kp, {}",
                p.depth
            )),
            parts => text.block(&format!(
                "li t1, {parts}
                 remu part, me, t1
                 divu t2, me, t1         # place in the part
                 muli t1, part, {depth}
                 li kp, {}
                 sub kp, kp, t1
                 li t0, {depth}
                 min kp, kp, t0
                 muli t1, t1, {}
                 la at, {id}_A
                 add at, at, t1",
                op.k,
                op.input.bits() / 8,
                depth = p.depth
            )),
        }
        let (a, channel) = (op.operand(), self.site.channel);
        let place = bytes_of("t1", "t2", a);
        // `width` elements of K from its place `t2` in the tile's part, to `to`.
        let load = |to: &str, width: &str| match op.blocks {
            None => format!("dma.{}.{a} {channel}, {to}, at, {width}", op.input),
            Some(_) => {
                let (rule, factor) = match op.weights.scale {
                    // 1 in FP32, the tensor scale.
                    ScaleType::Ue4m3 => ("nvfp4", 0x3f80_0000),
                    _ => ("rceil", 0),
                };
                format!(
                    "shri t1, t2, {}
                     muli t1, t1, {ld}
                     addi t1, t1, {}
                     add t1, t1, ap          # scales of the slice
                     li t2, {ld}
                     li n, {factor}
                     dma.q.{rule}.{}.{a} {channel}, {to}, at, {width}, t1, t2, n",
                    op.weights.scale_block().ilog2(),
                    p.a_scales_at(),
                    op.input,
                    ld = p.a_scales_ld(),
                )
            }
        };
        let mask = |part: u64| {
            let tiles = (0..p.tiles).filter(|t| t % p.parts == part);
            tiles.fold(0u64, |mask, t| mask | 1 << t)
        };
        text.block(&format!(
            "muli col, t2, {}
             la ap, {id}_A_buf
             li m, {}
             li lda, {}",
            p.width, op.m, p.lda
        ));
        if self.site.is_local(0) {
            // All of it is in this tile's SRAM.
            text.block(&format!(
                "li t1, {}
                 dim m, lda, t1
                 signal {arrived}, 1
                 li t2, 0
                 {}",
                op.input.bytes_for(op.k),
                load("ap", "kp"),
            ));
            return self.ring(text, slot);
        }
        text.block(&format!(
            "li t1, {}
             bge t2, t1, {id}_no_slice
             muli t2, t2, {slice}
             sub kc, kp, t2
             li t1, {slice}
             min kc, kc, t1          # K of the slice
             muli t1, t2, {}
             add at, at, t1
             {place}
             add t0, ap, t1
             li t1, {}
             dim m, lda, t1
             ldc t1, {id}_masks(part)
             mcast t1
             signal.dest {arrived}, 1
             signal {sent}, 1
             {}
             j {id}_sliced
             {id}_no_slice:
             sem.post me, {sent}, 1
             {id}_sliced:",
            p.slices,
            op.input.bits() / 8,
            op.input.bytes_for(op.k),
            load("t0", "kc"),
            slice = p.slice,
        ));
        let masks: Vec<String> = (0..p.parts)
            .map(|part| mask(part).cast_signed().to_string())
            .collect();
        text.directive(&format!(".const {id}_masks, {}", masks.join(", ")));
        self.ring(text, slot);
    }

    /// Registers for the first chunk, in slot `slot`.
    fn ring(&self, text: &mut Text, slot: u64) {
        let (s, p, id) = (self.s, self.p, &self.id);
        text.block(&format!(
            "li left, {}
             sub left, left, col
             li kk, 0
             la cp, {id}_C_buf
             li acc, 0
             li ldc, {}
             la buf, linear_ring + {}
             la end, linear_ring + {}",
            p.op.n,
            p.ldc,
            slot * s.slot,
            s.slots * s.slot,
        ));
    }

    /// Multiplies the chunks of a turn. `pieces` and `panel`: what the registers hold.
    fn turn(
        &self,
        text: &mut Text,
        turn: &Turn,
        pieces: &mut Option<Option<Pieces>>,
        panel: &mut Option<usize>,
    ) {
        let wanted = turn.load.map(|l| l.pieces);
        if *pieces != Some(wanted) {
            match turn.load {
                Some(load) => loads(text, self.p.tiles, load),
                None => text.inst("li pieces, 0"),
            }
            *pieces = Some(wanted);
        }
        if *panel != Some(turn.panel) {
            let (p, op) = (&self.p.panels[turn.panel].1, &self.p.op);
            text.block(&format!(
                "li most, {}
                 min kc, kp, most
                 li wide, {}
                 li one, 1
                 min n, left, wide
                 max n, n, one           # a tile without columns multiplies one
                 li ldb, {}",
                p.kc,
                p.cols,
                p.ldb(op)
            ));
            if op.weights.scaled() {
                text.inst(&format!("li scales, {}", p.scales_at(op)));
            }
            if panel.is_none() {
                // Taken by the first product.
                let slices = match self.site.is_local(0) {
                    true => 1,
                    false => self.p.slices,
                };
                text.inst(&format!("wait {}, {slices}", self.semaphore(0)));
            }
            *panel = Some(turn.panel);
        }
        text.block(&format!(
            "li cnt, {}
             jal rb, {}_chunks",
            turn.chunks, self.id
        ));
    }

    /// Writes C, once all panels are in SRAM.
    fn write(&self, text: &mut Text) {
        let (p, id, dtype) = (self.p, &self.id, self.p.output());
        let (sums, stored, panels) = (self.semaphore(1), self.semaphore(2), p.panel_count());
        let bytes = dtype.bytes_for(1);
        text.block(&format!(
            "li t0, {}
             sub t0, t0, col
             li t1, {}
             min n, t0, t1
             blez n, {id}_none
             la t1, {id}_C
             muli t2, col, {bytes}
             add t1, t1, t2",
            p.op.n, p.width
        ));
        if p.parts > 1 {
            text.block(&format!(
                "muli t2, part, {}
                 add t1, t1, t2",
                p.op.m * p.op.n * bytes
            ));
        }
        text.block(&format!(
            "la t0, {id}_C_buf
             li t2, {}
             dim m, t2, ldc
             wait {sums}, {panels}
             signal {stored}, 1",
            p.op.n * bytes,
        ));
        let (local, done) = (self.site.is_local(1), self.site.done);
        if local || done.is_some() {
            text.inst(&format!("li wide, {}", self.site.all_tiles()));
        }
        if local {
            text.inst("mcast wide");
        }
        match done {
            Some(done) if local => text.inst(&format!("signal.dest {done}, 1")),
            Some(done) => text.inst(&format!("signal.tiles wide, {done}, 1")),
            None => {}
        }
        text.block(&format!(
            "dma.{dtype}.{dtype} {}, t1, t0, n
             sem.wait {stored}, 1
             j {id}_written
             {id}_none:
             sem.wait {sums}, {panels}",
            self.site.channel,
        ));
        self.site.tell(text, "t0", "t1");
        text.label(&format!("{id}_written"));
        if !self.site.is_local(0) {
            text.inst(&format!("sem.wait {}, 1", self.semaphore(3)));
        }
        text.inst(&format!("j {id}_end"));
    }

    /// Subroutine: `cnt` chunks, each followed by the load that takes its slot.
    fn chunks(&self, text: &mut Text) {
        let (s, p, op, id) = (self.s, self.p, &self.p.op, &self.id);
        let (a, b, c) = (op.operand(), op.weights.dtype, p.output());
        text.block(&format!(
            "{id}_chunks:
             wait {}, 1
             beqz pieces, {id}_keep
             signal {}, 1
             {id}_keep:",
            s.full, s.free
        ));
        let scale = op.weights.scale_name();
        match (op.weights.scaled(), op.blocks) {
            (false, _) => {}
            (true, None) => text.block(&format!(
                "add t0, buf, scales
                 mm.scale.none.{scale} r0, r0, t0, wide"
            )),
            (true, Some(_)) => text.block(&format!(
                "add t0, buf, scales
                 shri t1, kk, {}
                 muli t1, t1, {ld}
                 la t2, {id}_A_buf + {}
                 add t1, t1, t2
                 li t2, {ld}
                 mm.scale.{scale}.{scale} t1, t2, t0, wide",
                op.weights.scale_block().ilog2(),
                p.a_scales_at(),
                ld = p.a_scales_ld(),
            )),
        }
        text.block(&format!(
            "bnez kk, {id}_add
             mm.new.{a}.{b}.mk.kn acc, ap, buf, m, n, kc, lda, ldb
             j {id}_pushed
             {id}_add:
             mm.acc.{a}.{b}.mk.kn acc, ap, buf, m, n, kc, lda, ldb
             {id}_pushed:
             beqz pieces, {id}_loaded
             wait {}, 1",
            s.free
        ));
        push(text, s);
        text.block(&format!(
            "{id}_loaded:
             addi buf, buf, {}
             bne buf, end, {id}_in_ring
             la buf, linear_ring
             {id}_in_ring:
             {advance}
             add ap, ap, t0
             add kk, kk, kc
             sub kc, kp, kk
             bnez kc, {id}_next
             signal {}, 1
             mm.store.{c} acc, cp, m, n, ldc
             xori acc, acc, {}
             la ap, {id}_A_buf
             li kk, 0
             mv kc, kp
             muli t0, wide, {}
             add cp, cp, t0
             sub left, left, wide
             min n, left, wide
             max n, n, one
             {id}_next:
             min kc, kc, most
             dec cnt
             bnez cnt, {id}_chunks
             jalr r0, 0(rb)",
            s.slot,
            self.semaphore(1),
            p.blocks(),
            c.bytes_for(1),
            advance = bytes_of("t0", "kc", a),
        ));
    }
}

/// `to` = bytes of `count` elements of a row of A.
fn bytes_of(to: &str, count: &str, dtype: Dtype) -> String {
    match u64::from(dtype.bits()) {
        bits if bits.is_multiple_of(8) => format!("muli {to}, {count}, {}", bits / 8),
        bits => format!("muli {to}, {count}, {bits}\nshri {to}, {to}, 3"),
    }
}

/// The decisions in words.
fn describe(s: &Stream, p: &Packing, chip: &Chip) -> Plan {
    let mut plan = Plan {
        op: p.op.to_string(),
        facts: Vec::new(),
        split_k: p.parts,
        split_depth: p.depth,
        predicted_cycles: p.cycles(chip),
    };
    plan.fact(
        "grid",
        format!(
            "{} parts of K = {} x {} groups of {} columns",
            p.parts, p.depth, p.groups, p.width
        ),
    );
    for (count, q) in &p.panels {
        plan.fact(
            "panels",
            format!(
                "{count} of {} columns, in {} chunks of K = {}: {} bytes in pieces of {}",
                q.cols,
                q.chunks,
                q.kc,
                q.pieces.total(),
                q.pieces.bytes
            ),
        );
    }
    plan.fact("ring", format!("{} slots of {} bytes", s.slots, s.slot));
    let (op, streamed) = (&p.op, p.bytes());
    let bytes = op.k * op.weights.bytes(op.n) + op.weights.scale_blocks(op.k) * op.n;
    plan.fact(
        "streamed",
        format!("{streamed} bytes for {bytes} of weights"),
    );
    plan
}
