//! The event engine: integer time, ordered delivery of messages, queues for bandwidth and credits. It knows nothing of chips and imports nothing
//! from the rest of the crate; `timing` builds its units on it, and whoever drives a simulation (`timing`, a bench, a test) owns the [`Engine`].
//!
//! **Models.** Components, numbered by [`ComponentId`], own their state and talk only in messages that arrive at a stated time. Components live in
//! partitions ([`Partition`]), the unit of threading; a message between partitions takes at least the lookahead. [`Clock`] turns cycles into
//! picoseconds and back without drift, [`Server`] is a FIFO resource in closed form (no event per beat), [`Credits`] a bounded count of things in
//! flight.
//!
//! **Leaves out.** Delta cycles and combinational signals (a message to another component takes at least 1 ps); cancelling events (a component
//! ignores a wake-up it no longer wants); rollback: windows are conservative, so nothing is ever undone.
//!
//! [`order`] stands beside it: what a program orders whatever the time, for those who prove things of programs.
//!
//! **Invariants.**
//! - Events are handled in the order (time, target, source, per-source sequence number); events from [`Engine::seed`] sort after those of components.
//! - A message a component sends itself *now* is handled in the same instant, after that component's queued events of the instant, in FIFO order.
//! - The result of a run (component states, outcome, what is still queued) depends on neither the thread count nor the order in which components
//!   run inside an instant. Tests permute both, and compare with a model that is a sorted map.
//! - No wall clock, no floating point, no iteration over hash maps.
//! - In the steady state nothing allocates: buffers grow to the largest number of events in flight and stay.
//! - A component that breaks the rules (a message into the past, under the minimum latency, credits that were never taken) is a bug in the emulator:
//!   a panic that names component and time.
mod barrier;
mod engine;
pub mod order;
mod outbox;
mod queue;
mod server;
mod snapshot;
#[cfg(test)]
mod tests;
mod threads;
mod time;
mod window;

pub use engine::{Engine, Outcome, Partition, Reason, RunOptions};
pub use outbox::{ComponentId, Outbox};
pub use server::{Credits, Server};
pub use time::{Clock, Ps};
