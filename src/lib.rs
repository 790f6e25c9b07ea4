//! Tilewright.
pub mod chip;
pub mod num;
pub mod sim;
