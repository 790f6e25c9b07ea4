//! Tilewright.
pub mod chip;
pub mod isa;
pub mod num;
pub mod sim;
