//! Tilewright.

pub mod asm;
pub mod chip;
pub mod cli;
pub mod compiler;
pub mod isa;
pub mod machine;
pub mod num;
pub mod report;
pub mod sim;
pub mod timing;
pub mod trace;
