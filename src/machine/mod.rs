//! Architectural state of a chip and the one executor of its semantics.
//!
//! Models: what every instruction does to registers, memories, accumulators and semaphores; what makes it trap; the
//! macro-operations that control processors push. Leaves out: time. The untimed runner ([`untimed`]) and the timed chip
//! call the same functions, so a program that synchronises correctly ends with the same bytes in both.
//!
//! - [`state`], [`memory`], [`load`]: the parts of a machine, its loading, tensors and expectations.
//! - [`core`], [`push`], [`place`]: control code, and operand capture with all checks. [`op`]: what it produces.
//! - [`exec`]: doing the operations: transfers, matrix products, vector kernels.
//! - [`untimed`]: a runner without time. [`deadlock`], [`trap`]: how runs end early.
//!
//! Invariants: no input program makes this module panic or run without bound; nothing here depends on the host, on
//! thread order or on time (the cycle register is an input); state is plain data without shared ownership, except for
//! copy-on-write pages. Imports `num`, `isa` and `chip` only. Who may call it: timing, debugger, command line, tests;
//! never the compiler.

pub mod core;
pub mod deadlock;
pub mod exec;
pub mod load;
pub mod memory;
pub mod op;
mod operand;
pub mod place;
pub mod push;
pub mod state;
pub mod trap;
pub mod untimed;

pub use self::core::{Action, Core, CoreContext};
pub use deadlock::{Blocked, BlockedOn, DeadlockReport, Need};
pub use exec::{tensor, transfer, vector};
pub use load::{LoadOptions, Machine, Mismatch};
pub use memory::{Budget, Layout, Memory};
pub use state::{Accumulators, Cluster, Global, Semaphores, Tile};
pub use trap::{KernelFault, MachineError, RunError, Trap, TrapKind};
pub use untimed::{UntimedLimits, UntimedSummary, run_untimed};
