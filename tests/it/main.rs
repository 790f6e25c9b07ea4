//! All integration tests, in one binary.

mod asm;
mod attention;
mod cli;
mod compiler;
mod layers;
mod machine;
mod noc;
mod num;
mod programs;
mod timing;
