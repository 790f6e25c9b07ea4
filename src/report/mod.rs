//! What a run amounts to: rates against peaks and bound, where the time of every kind of engine went, and what each line
//! of the program waited for.
//!
//! Models: figures derived from a trace, from counters and from the chip's peak rates. Leaves out: how they are shown
//! (`cli`) and how they came about (`timing`). Invariants: fractions of an engine kind sum to 1 and its printed
//! percentages to 100; a figure that does not apply is absent, never zero.
//! Who may call it: `cli`.

pub mod devices;
pub mod energy;
pub mod lines;
pub mod metrics;
pub mod reference;
pub mod stalls;
pub mod table;

pub use energy::Energy;
pub use lines::{LineReport, by_line};
pub use metrics::{Check, Measured, Metrics, Work};
pub use stalls::{KindStalls, by_engine, by_kind};
pub use table::Table;
