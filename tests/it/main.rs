//! All integration tests, in one binary.

mod asm;
mod attention;
mod cli;
mod compiler;
mod layers;
mod machine;
mod num;
mod programs;
mod sanitize;
mod timing;
