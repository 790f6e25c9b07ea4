//! What is made of a run: references to check it against.

pub mod reference;
