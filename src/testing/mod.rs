//! Property tests of programs and instructions, for this crate and for others.
//!
//! Models: strategies of [proptest](https://docs.rs/proptest) for instructions, vector kernels, register contents, chips and
//! whole programs, and helpers that run what they draw. Leaves out: references of what instructions compute; a property
//! states its own. Invariants: everything drawn is valid; a failing case shrinks to one that is valid too; nothing
//! depends on the host or on time. Who may call it: tests, the programs in `fuzz/`, other crates' tests.
//!
//! | what | strategy | run it with |
//! |---|---|---|
//! | instruction words | [`inst`], [`inst_of`] | [`state::VectorState::run`], [`state::ControlState::run`] |
//! | registers | [`state::vector_state`], [`state::control_state`] | the same |
//! | vector kernels | [`kernels::kernel`], [`kernels::instruction`] | `vrun` in a program of your own |
//! | programs that synchronise correctly | [`program::program`] | [`run::same_everywhere`], [`run::untimed`], [`run::timed`] |
//! | chips | [`chips::shapes`], [`chips::settings`] | [`run::same_on_chips`] |
//! | hostile files | [`fuzz`] | [`fuzz::drive`], and the program in `fuzz/` |
//!
//! # From another crate
//!
//! With a checkout beside it, `path = ".."` instead of the version.
//!
//! ```toml
//! [dev-dependencies]
//! proptest = { version = "1.12", default-features = false, features = ["std"] }
//! tilewright = { version = "0.1", features = ["testing"] }
//! ```
//!
//! A property of an instruction: run it on any registers and say what must hold. `?` turns every failure, a trap too, into
//! a failed case.
//!
//! ```
//! use proptest::prelude::*;
//! use tilewright::testing::state::vector_state;
//!
//! proptest! {
//!     # #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]
//!     // NaNs and both zeros included: the bits are the same.
//!     # /*
//!     #[test]
//!     # */
//!     fn vmax_commutes(s in vector_state()) {
//!         let (ab, ba) = (s.run("vmax.f32 v9, v0, v1 ?p3")?, s.run("vmax.f32 v9, v1, v0 ?p3")?);
//!         prop_assert_eq!(ab, ba);
//!     }
//!
//!     // What E4M3 holds survives a second conversion.
//!     # /*
//!     #[test]
//!     # */
//!     fn e4m3_is_idempotent(s in vector_state()) {
//!         let round_trip = "vcvt.e4m3.f32 v8, v0, 0, 0\nvcvt.f32.e4m3 v0, v8, 0, 0";
//!         let once = s.run(round_trip)?;
//!         prop_assert_eq!(once.run(round_trip)?.v, once.v);
//!     }
//! }
//! # vmax_commutes();
//! # e4m3_is_idempotent();
//! ```
//!
//! # Shrinking
//!
//! A [`program::Program`] is a plan that is written out as assembly when it is run. Proptest drops operations, rounds and
//! dimensions of the plan as long as the case fails; after each step the semaphores are placed anew, so that the smaller
//! program synchronises correctly as well. The `Debug` form, which proptest prints for the smallest failing case, is the
//! assembly: save it as `case.s` and run it as its first line says, `tilewright run case.s --chip mini --set ..`. Chips
//! are drawn as the values of `--set`, so they are the rest of the command line.

pub mod chips;
pub mod fuzz;
pub mod kernels;
pub mod program;
pub mod run;
pub mod state;

pub use crate::isa::strategy::{inst, inst_of};
