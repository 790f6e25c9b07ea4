//! A ring of buffers in TSRAM that pieces go through one after the other.
//!
//! Models: which buffer a piece has, and the two semaphores of each: `FREE` holds one token while nothing uses the buffer, `READY`
//! while it holds what a load brought. Leaves out: what is done with it. Invariant: at the end of the stage [`Ring::drain`] takes the tokens
//! back, each of which the last user of its buffer gave when it retired: all transfers are over and the semaphores are zero.

use super::{ALIGN, CompileError, Frame};

/// Buffers of a ring: two loads and two stores of 32 KiB in flight cover HBM's latency at a tile's share of its rate, twice over.
const SLOTS: u64 = 8;
/// Most bytes of a buffer: longer transfers gain nothing.
const MOST: u64 = 64 << 10;

/// Sizes of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    pub slots: u64,
    /// Bytes of a buffer, whole requests.
    pub bytes: u64,
}

impl Ring {
    /// How many buffers a ring has.
    pub fn slots() -> u64 {
        SLOTS
    }

    /// Bytes of a buffer of the largest ring, if `taken` more bytes are.
    pub fn room(frame: &Frame, taken: u64) -> u64 {
        (frame.free().saturating_sub(taken) / SLOTS / ALIGN * ALIGN).min(MOST)
    }

    /// The largest ring for what is free, with buffers of no more than `most` bytes.
    pub fn new(frame: &Frame, most: u64) -> Result<Ring, CompileError> {
        let most = most.clamp(1, MOST).next_multiple_of(ALIGN);
        let free = frame.free();
        let bytes = Ring::room(frame, 0).min(most);
        if bytes == 0 {
            let need = SLOTS * ALIGN;
            return Err(frame.no_plan(format!(
                "a ring of {SLOTS} buffers needs {need} bytes of SRAM, {free} are free"
            )));
        }
        let slots = SLOTS;
        Ok(Ring { slots, bytes })
    }

    /// Semaphores that it takes.
    pub fn semaphores(self) -> u64 {
        2 * self.slots
    }

    /// Declares the buffers and their constants. Registers `me`, `slot`, `buf` and `t` must be named.
    pub fn declare(self, frame: &mut Frame) -> Result<(), CompileError> {
        frame.buffer("ring", self.slots * self.bytes)?;
        let first = frame.site.semaphore;
        let text = &mut frame.text;
        text.equ("SLOTS", self.slots, "buffers of the ring");
        text.equ("SLOT", self.bytes, "bytes of one");
        text.equ(
            "FREE",
            first,
            "semaphores, one per buffer: it may be filled",
        );
        let ready = first + self.slots;
        text.equ("READY", ready, "semaphores, one per buffer: it is filled");
        Ok(())
    }

    /// Starts with all buffers free.
    pub fn start(self, frame: &mut Frame) {
        frame.text.inst("rdsr me, unit");
        for s in 0..self.slots {
            frame.text.inst(&format!("sem.post me, FREE + {s}, 1"));
        }
        frame.text.inst("li slot, 0");
    }

    /// Waits for buffer `slot` and sets `buf` to its address; clobbers t. It is the processor that waits, not the load: else [`Ring::drain`]
    /// could take the token before a load that is still queued.
    pub fn take(self, frame: &mut Frame) {
        frame.text.block(
            "muli t, slot, SLOT
             li buf, ring
             add buf, buf, t
             sem.wait FREE(slot), 1",
        );
    }

    /// Goes on to the next buffer; clobbers t.
    pub fn next(self, frame: &mut Frame) {
        frame.text.block(
            "addi slot, slot, 1      # the next buffer, or the first: slot < SLOTS ? slot : 0
             slti t, slot, SLOTS
             mul slot, slot, t",
        );
    }

    /// Ends the stage: waits until every buffer is free for good, if others follow.
    pub fn drain(self, frame: &mut Frame) {
        if !frame.site.chained {
            frame
                .text
                .inst_c("halt", "what was pushed goes on to its end");
            return;
        }
        for s in 0..self.slots {
            frame.text.inst(&format!("sem.wait FREE + {s}, 1"));
        }
    }
}
