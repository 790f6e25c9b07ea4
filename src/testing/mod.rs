//! Property tests.

pub mod chips;
pub mod kernels;
pub mod program;
pub mod run;

pub use crate::isa::strategy::{inst, inst_of};
