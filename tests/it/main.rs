mod asm;
