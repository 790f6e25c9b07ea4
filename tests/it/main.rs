//! All integration tests, in one binary.

mod asm;
mod compiler;
mod machine;
mod programs;
