//! All integration tests, in one binary.

mod asm;
mod cli;
mod compiler;
mod layers;
mod machine;
