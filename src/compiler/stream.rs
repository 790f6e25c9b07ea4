//! Streams: all tiles move chunks between HBM and their SRAM, and nothing else.
//!
//! Models: `read` (HBM to SRAM), `write` (SRAM to HBM, every chunk the same bytes) and `copy` (HBM to SRAM to HBM). A tile keeps `streams`
//! buffers in flight, a transfer of `chunk` bytes each: a buffer's next load waits until the buffer is free. Chunks go to tiles in turn, or
//! each tile has a range of its own ([`Split`]). Leaves out: computing, multicast, rows. Invariants: the loop is unrolled over buffers only, so
//! the text does not grow with the bytes; operations wait only for operations that were pushed before them, so no queue can deadlock; each
//! byte is moved once, but for the chunk that `write` takes its bytes from, which every tile reads once.

use super::emit::{Text, TsramLayout};
use super::limits::Needs;
use super::op::{OpError, TensorSpec};
use super::{CompileError, Lowered, Op, Plan, prologue};
use crate::chip::{Chip, cost};
use crate::num::Dtype;
use serde::{Deserialize, Serialize};

/// Chunks are whole bursts, up to what a tile's SRAM holds a few of.
pub const CHUNKS: (u64, u64) = (32, 1 << 20);
/// Most buffers of a tile: the loop is unrolled over them.
pub const MAX_STREAMS: u64 = 16;

/// Which way a stream goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// HBM to SRAM.
    Read,
    /// SRAM to HBM.
    Write,
    /// HBM to SRAM to HBM.
    Copy,
}

impl Way {
    /// Every way.
    pub const ALL: [Way; 3] = [Way::Read, Way::Write, Way::Copy];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Way::Read => "read",
            Way::Write => "write",
            Way::Copy => "copy",
        }
    }
}

/// Which chunks a tile has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Consecutive chunks belong to consecutive tiles.
    #[default]
    Interleaved,
    /// Each tile has a range of consecutive chunks.
    Ranges,
}

impl Split {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Split::Interleaved => "interleaved",
            Split::Ranges => "ranges",
        }
    }
}

/// A stream through the SRAM of all tiles. Tensors: `src`, u8 [bytes] ([chunk] for a write), and `dst`, u8 [bytes].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    pub way: Way,
    /// Bytes read, written or copied; a copy crosses HBM's pins twice.
    pub bytes: u64,
    /// Bytes of one transfer, a multiple of a burst; the last may be shorter.
    pub chunk: u64,
    /// Buffers of each tile.
    pub streams: u64,
    pub split: Split,
}

impl Stream {
    /// Checks every field; that the tensors fit is the operation's to check.
    pub fn validate(&self) -> Result<(), OpError> {
        let wrong = |name, value, limit: String| Err(OpError::Stream { name, value, limit });
        if self.bytes == 0 {
            return wrong("bytes", 0, "it must be at least 1".into());
        }
        let (least, most) = CHUNKS;
        if !self.chunk.is_multiple_of(least) || !(least..=most).contains(&self.chunk) {
            let limit = format!("it must be a multiple of {least} from {least} to {most}");
            return wrong("chunk", self.chunk, limit);
        }
        if !(1..=MAX_STREAMS).contains(&self.streams) {
            let limit = format!("it must be 1 to {MAX_STREAMS}");
            return wrong("streams", self.streams, limit);
        }
        Ok(())
    }

    /// `src` and `dst`, as far as the way has them.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let tensor = |name: &str, bytes, output| TensorSpec {
            name: name.to_owned(),
            dtype: Dtype::U8,
            shape: vec![bytes],
            pitch: None,
            output,
        };
        let (src, dst) = match self.way {
            Way::Read => (self.bytes, None),
            Way::Write => (self.chunk, Some(self.bytes)),
            Way::Copy => (self.bytes, Some(self.bytes)),
        };
        let mut all = vec![tensor("src", src, false)];
        all.extend(dst.map(|bytes| tensor("dst", bytes, true)));
        all
    }
}

impl std::fmt::Display for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let buffers = if self.streams == 1 { "" } else { "s" };
        write!(
            f,
            "stream {} of {} bytes in chunks of {}, {} stream{buffers} a tile, {}",
            self.way.name(),
            self.bytes,
            self.chunk,
            self.streams,
            self.split.name()
        )
    }
}

/// Compiles a validated stream.
///
/// # Errors
/// Buffers past the tile's SRAM; a chip with fewer semaphores than buffers need.
pub fn lower(op: &Stream, chip: &Chip) -> Result<Lowered, CompileError> {
    let whole = Op::Stream(*op);
    let needs = Needs {
        semaphores: match op.way {
            Way::Read => op.streams,
            Way::Write => op.streams + 1,
            Way::Copy => 2 * op.streams,
        },
        counter: 1,
        per_op: 1,
        ..Needs::default()
    };
    if let Some(reason) = needs.missing(chip) {
        return Err(CompileError::NoPlan {
            op: whole.to_string(),
            chip: chip.name.clone(),
            reason,
        });
    }
    let mut layout = TsramLayout::new(chip);
    // What a write sends lies in one buffer that all its transfers read.
    let buffers = if op.way == Way::Write { 1 } else { op.streams };
    layout.place("BUF", buffers * op.chunk)?;
    let plan = describe(op, chip);
    let mut text = Text::default();
    prologue(&mut text, &whole, chip, &plan);
    layout.declare(&mut text);
    program(&mut text, op, chip);
    super::epilogue(&mut text, &whole, chip, &plan);
    Ok(Lowered {
        text: text.finish(),
        plan,
    })
}

/// The decisions in words, and what the formulas predict: the most of what HBM, the control processor and the bytes in flight allow.
fn describe(op: &Stream, chip: &Chip) -> Plan {
    let tiles = u64::from(chip.tiles());
    let (read, written) = Op::Stream(*op).compulsory_bytes();
    let hbm = (cost::hbm_peak_bytes_per_s(chip) / chip.clock_hz).max(1);
    let path_ps = u64::from(chip.hbm.path.total_ns()) * 1000;
    let latency =
        path_ps * (chip.clock_hz / 1_000_000) / 1_000_000 + u64::from(chip.dma.setup_cycles);
    let legs = if op.way == Way::Copy { 2 } else { 1 };
    let turns = op.bytes.div_ceil(op.chunk).div_ceil(tiles);
    // Per chunk: branch, count, addresses, and per transfer its clauses and its push.
    let control = 4 + legs * (3 + u64::from(chip.queue.push_cycles));
    let costs = [
        ("hbm", (read + written) / hbm),
        ("control", turns * control),
        (
            "buffers in flight",
            (turns * legs * latency).div_ceil(op.streams),
        ),
    ];
    let mut plan = Plan {
        op: op.to_string(),
        facts: Vec::new(),
        split_k: 1,
        split_depth: 0,
        predicted_cycles: latency + costs.iter().map(|c| c.1).max().unwrap_or(0),
    };
    plan.fact("tiles", tiles);
    plan.fact("chunks of a tile", format!("up to {turns}"));
    let (loads, stores) = channels(op, chip);
    for (name, list) in [("load channels", loads), ("store channels", stores)] {
        if !list.is_empty() {
            let list: Vec<String> = list.iter().map(u64::to_string).collect();
            plan.fact(name, list.join(", "));
        }
    }
    for (unit, cycles) in costs {
        plan.fact(&format!("cycles, {unit}"), cycles);
    }
    plan
}

/// DMA channels of loads and of stores: all for one way; a copy halves them, so that a store that waits holds up no load.
fn channels(op: &Stream, chip: &Chip) -> (Vec<u64>, Vec<u64>) {
    let count = u64::from(chip.dma.channels).max(1);
    let all: Vec<u64> = (0..count).collect();
    match op.way {
        Way::Read => (all, Vec::new()),
        Way::Write => (vec![0], all),
        Way::Copy if count == 1 => (vec![0], vec![0]),
        Way::Copy => {
            let (loads, stores) = all.split_at(all.len() / 2);
            (loads.to_vec(), stores.to_vec())
        }
    }
}

fn program(text: &mut Text, op: &Stream, chip: &Chip) {
    let tiles = u64::from(chip.tiles());
    let (full, tail) = (op.bytes / op.chunk, op.bytes % op.chunk);
    let step = match op.split {
        Split::Interleaved => tiles * op.chunk,
        Split::Ranges => op.chunk,
    };
    text.blank();
    for (name, value, comment) in [
        ("CHUNK", op.chunk, "bytes of a transfer"),
        ("FULL", full, "whole chunks"),
        ("TAIL", tail, "bytes behind them"),
        ("STEP", step, "bytes from a chunk of a tile to its next"),
        ("EACH", full / tiles, "chunks of every tile"),
        ("EXTRA", full % tiles, "tiles that have one more"),
        (
            "USED",
            tiles.min(full + u64::from(tail > 0)),
            "tiles with work",
        ),
        (
            "FREE",
            0,
            "semaphores, one per buffer: it may be filled, or sent again",
        ),
        (
            "READY",
            op.streams,
            "semaphores, one per buffer: it is filled",
        ),
    ] {
        text.equ(name, value, comment);
    }
    text.blank();
    text.registers(&[
        ("me", "this tile"),
        ("left", "chunks to go"),
        ("at", "byte offset of the next chunk"),
        ("from", "where it is read"),
        ("to", "where it is written"),
        ("buf", "its buffer"),
        ("len", "its bytes"),
        ("t", "scratch"),
    ]);
    text.blank();
    text.directive(".tile");
    text.block(
        "rdsr me, tile
         li t, USED
         bge me, t, done
         li left, EACH
         slti t, me, EXTRA
         add left, left, t",
    );
    if op.way == Way::Write {
        text.block(
            "li buf, BUF             # what will be written
             la from, src
             li len, CHUNK
             signal READY, 1
             dma.u8.u8 0, buf, from, len
             sem.wait READY, 1",
        );
    }
    for s in 0..op.streams {
        text.inst(&format!("sem.post me, FREE + {s}, 1"));
    }
    if tail > 0 {
        text.blank();
        text.block(&format!(
            "# The short chunk, by the tile after the last whole one's.
             li t, {}
             bne me, t, whole
             li len, TAIL
             li at, FULL * CHUNK",
            full % tiles
        ));
        pointers(text, op);
        transfers(text, op, chip, 0);
        text.label("whole");
    }
    text.blank();
    match op.split {
        Split::Interleaved => text.inst("muli at, me, CHUNK"),
        Split::Ranges => text.block(
            "li at, EACH
             mul at, at, me
             li t, EXTRA
             min t, t, me
             add at, at, t
             muli at, at, CHUNK",
        ),
    }
    pointers(text, op);
    text.inst("li len, CHUNK");
    text.label("next");
    for s in 0..op.streams {
        text.block("beqz left, done\naddi left, left, -1");
        transfers(text, op, chip, s);
        for (pointer, used) in [("from", op.way != Way::Write), ("to", op.way != Way::Read)] {
            if used {
                text.inst(&format!("addi {pointer}, {pointer}, STEP"));
            }
        }
    }
    text.inst("j next");
    text.label("done");
    text.inst_c("halt", "what was pushed goes on to its end");
}

/// Sets the pointers of the chunk at `at`; clobbers t.
fn pointers(text: &mut Text, op: &Stream) {
    if op.way != Way::Write {
        text.block("la from, src\nadd from, from, at");
    }
    if op.way != Way::Read {
        text.block("la to, dst\nadd to, to, at");
    }
}

/// Pushes the transfers of a chunk through buffer `s`.
fn transfers(text: &mut Text, op: &Stream, chip: &Chip, s: u64) {
    let (loads, stores) = channels(op, chip);
    let turn = |list: &[u64]| list[s as usize % list.len()];
    match op.way {
        Way::Read => text.block(&format!(
            "li buf, BUF + {s} * CHUNK
             wait FREE + {s}, 1
             signal FREE + {s}, 1
             dma.u8.u8 {}, buf, from, len",
            turn(&loads)
        )),
        Way::Write => text.block(&format!(
            "wait FREE + {s}, 1
             signal FREE + {s}, 1
             dma.u8.u8 {}, to, buf, len",
            turn(&stores)
        )),
        Way::Copy => text.block(&format!(
            "li buf, BUF + {s} * CHUNK
             wait FREE + {s}, 1
             signal READY + {s}, 1
             dma.u8.u8 {}, buf, from, len
             wait READY + {s}, 1
             signal FREE + {s}, 1
             dma.u8.u8 {}, to, buf, len",
            turn(&loads),
            turn(&stores)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(way: Way) -> Stream {
        Stream {
            way,
            bytes: 1 << 30,
            chunk: 4096,
            streams: 4,
            split: Split::default(),
        }
    }

    #[test]
    fn errors_name_value_and_limit() {
        let chip = Chip::preset("maia-200").unwrap();
        let base = stream(Way::Copy);
        for (op, want) in [
            (
                Stream { bytes: 0, ..base },
                "bytes is 0; it must be at least 1",
            ),
            (
                Stream { chunk: 48, ..base },
                "chunk is 48; it must be a multiple of 32 from 32 to 1048576",
            ),
            (
                Stream {
                    chunk: 2 << 20,
                    ..base
                },
                "chunk is 2097152; it must be a multiple of 32 from 32 to 1048576",
            ),
            (
                Stream {
                    streams: 17,
                    ..base
                },
                "streams is 17; it must be 1 to 16",
            ),
            (
                Stream {
                    bytes: u64::MAX,
                    ..base
                },
                "the tensors take 36893488147419103742 bytes; the chip's HBM holds 231928233984",
            ),
        ] {
            let error = super::super::compile(&Op::Stream(op), &chip).unwrap_err();
            assert_eq!(error.to_string(), want);
        }
        let wide = Stream {
            chunk: 1 << 20,
            ..base
        };
        let error = super::super::compile(&Op::Stream(wide), &chip).unwrap_err();
        assert_eq!(
            error.to_string(),
            "buffer `BUF` of 4194304 bytes ends at 4194304, past the tile's 3145728 bytes of SRAM"
        );
        let mut few = chip;
        few.set("semaphores.count=7").unwrap();
        let error = super::super::compile(&Op::Stream(base), &few).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("needs 8 semaphores, semaphores.count is 7"),
            "{error}"
        );
    }

    #[test]
    fn programs_do_not_grow_with_the_bytes() {
        let chip = Chip::preset("maia-200").unwrap();
        let size = |bytes| {
            let op = Op::Stream(Stream {
                bytes,
                ..stream(Way::Copy)
            });
            super::super::compile(&op, &chip)
                .unwrap()
                .image
                .program_bytes()
        };
        assert_eq!(size(1 << 20), size(64 << 30));
    }
}
