

mod asm;
mod machine;
