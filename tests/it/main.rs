//! All integration tests, in one binary.

mod asm;
mod attention;
mod compiler;
mod machine;
