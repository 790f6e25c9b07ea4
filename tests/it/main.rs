//! All integration tests, in one binary.

mod asm;
mod attention;
mod chain;
mod checker;
mod cli;
mod compiler;
mod differential;
mod differential_kernels;
mod differential_num;
mod families;
mod hf;
mod layers;
mod legal;
mod linear;
mod machine;
mod movement;
mod noc;
mod num;
mod onnx;
mod pages;
mod programs;
mod properties;
mod rowwise;
mod sanitize;
mod stages;
mod timing;
