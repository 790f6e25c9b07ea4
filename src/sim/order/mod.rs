//! What happens before what in every run of a program, whatever its timing: the parts from which such analyses are made.
//!
//! Models: events and what is known of them ([`clock`]), counting semaphores whose tokens have no names ([`tokens`]), and who touched each
//! byte of a memory last ([`shadow`]). Leaves out: programs. Two analyses make events of what programs do and share nothing but this: the
//! sanitizer, which watches the executor (`machine::sanitize`), and the checker of compiled graphs (`compiler::check`).
//! Invariant: what is unknown counts as unordered.

pub mod clock;
pub mod shadow;
pub mod tokens;
