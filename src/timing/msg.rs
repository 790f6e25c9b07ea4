//! Messages between components, and the trains that data travels in.

use crate::machine::exec::transfer;
use crate::machine::memory::Memory;
use crate::machine::op::{Queue, Transfer, UnitId};
use crate::machine::trap::TrapKind;
use std::sync::Arc;

/// A transfer that has started.
#[derive(Debug)]
pub struct InFlight {
    /// What it moves; gather offsets resolved.
    pub transfer: Transfer,
    /// Who started it.
    pub initiator: UnitId,
    /// Word of the instruction that pushed it.
    pub pc: u32,
    /// Queue of the initiator it came from.
    pub queue: Queue,
    /// Number of the operation within the initiator.
    pub seq: u64,
    /// In a run without data: it touches nothing that is stored.
    pub payload_only: bool,
    /// Elements in all.
    pub elements: u64,
    /// The destination that returns credits: the initiator's own memory if it is one, else the first.
    pub acker: UnitId,
    /// Semaphore increments at every destination unit.
    pub at_destination: Vec<(u16, u16)>,
}

/// A part of a transfer that is issued, routed and acknowledged together.
#[derive(Clone, Debug)]
pub struct Train {
    /// The transfer.
    pub op: Arc<InFlight>,
    /// First element.
    pub start: u64,
    /// Elements.
    pub len: u64,
    /// Bytes on the wire.
    pub bytes: u64,
    /// Outstanding requests it holds until acknowledged.
    pub requests: u32,
    /// The elements in the destination's type, once read from the source; none without data.
    pub data: Option<Arc<[u8]>>,
    /// Its conversion lost a NaN, once read from the source.
    pub lost_nan: bool,
}

impl Train {
    /// Reads the train's elements from the memory of its source, which in a run without data may store none.
    pub fn read_from(&mut self, memory: &Memory) -> Result<(), TrapKind> {
        if !self.op.payload_only {
            let data = transfer::read(&self.op.transfer, self.start, self.len, memory)?;
            self.lost_nan = data.as_ref().is_some_and(|data| data.lost_nan);
            self.data = data.map(|data| data.bytes.into());
        }
        Ok(())
    }

    /// Writes the train's elements to the memory of a destination.
    pub fn write_to(&self, memory: &mut Memory) -> Result<(), TrapKind> {
        if self.op.payload_only {
            return Ok(());
        }
        let data = self.data.as_deref();
        transfer::write(&self.op.transfer, self.start, self.len, memory, data)
    }
}

/// The instruction that an event goes back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Whose program it is in.
    pub unit: UnitId,
    /// Its word there.
    pub pc: u32,
}

/// How far a train has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// On its way out of the source's cluster.
    Out,
    /// On its way to destinations: routed inwards only.
    In,
}

/// What components tell each other and themselves.
#[derive(Clone, Debug)]
pub enum Msg {
    /// The processor goes on.
    Step,
    /// The DMA engine may issue again.
    Pump,
    /// Something of the tensor unit is due.
    Ttu,
    /// The vector kernel ends.
    Tvp,
    /// A semaphore increment arrives.
    Post {
        /// Semaphore index.
        sem: u16,
        /// How many.
        n: u16,
        /// Who made it.
        by: Origin,
    },
    /// A request for a train arrives at the memory that holds its source.
    Read(Train),
    /// A train's data arrives.
    Data {
        /// The train.
        train: Train,
        /// Where it is on its way.
        leg: Leg,
    },
    /// A port has moved a train into SRAM.
    Written(Train),
    /// The HBM has done what a slot of the chip component waits for.
    Hbm {
        /// Slot number.
        slot: u32,
        /// Changes when the slot is rescheduled.
        version: u32,
    },
    /// Looks at the HBM model's revisions.
    Revise,
    /// A train is complete at its acknowledging destination.
    Ack {
        /// Queue of the initiator.
        queue: Queue,
        /// Operation.
        seq: u64,
        /// Elements.
        elements: u64,
        /// Credits returned.
        requests: u32,
        /// The initiator's conversion flag.
        lost_nan: bool,
    },
    /// All data of an operation is complete at another destination.
    Done {
        /// Queue of the initiator.
        queue: Queue,
        /// Operation.
        seq: u64,
    },
}
