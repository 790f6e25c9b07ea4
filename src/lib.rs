//! Tilewright.
pub mod asm;
pub mod chip;
pub mod isa;
pub mod machine;
pub mod num;
pub mod sim;
pub mod cli {
    pub mod asm;
    pub mod disasm;
}
