
mod machine;
mod asm;
