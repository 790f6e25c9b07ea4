//! Machine: placeholder page.
pub mod op;
