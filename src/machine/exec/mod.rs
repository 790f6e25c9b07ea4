//! Doing macro-operations: the one place where data moves and numbers change.
//!
//! Models: transfers ([`transfer`]), matrix products ([`tensor`]), vector kernels ([`vector`], [`kernel`]). Leaves out:
//! when operations run and what they cost. Invariant: operands were checked at push time, so only kernels, gather
//! tables and memory limits can still fail here.

mod access;
mod convert;
pub mod kernel;
mod lanes;
pub mod tensor;
pub mod transfer;
pub mod vector;
