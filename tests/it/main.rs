mod asm;
mod compiler;
