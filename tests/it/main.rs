mod asm;

mod machine;
