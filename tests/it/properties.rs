//! Properties of whole programs, drawn at random (`tilewright::testing`).
//!
//! Cases are chosen so that this file takes about half a minute on two busy cores.

use proptest::prelude::*;
use tilewright::testing::chips::{Shape, settings, settings_chip, shapes};
use tilewright::testing::program::{Program, program};
use tilewright::testing::run::{assemble, same_everywhere};

/// A shape, a program for it, and a chip of that shape.
fn any_run() -> impl Strategy<Value = (Program, Vec<String>, u64)> {
    shapes().prop_flat_map(|shape| (program(shape, 24), settings(shape), any::<u64>()))
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(64))]

    /// Untimed in any order, timed, shuffled, on two threads, without data: the same bytes and cycles.
    #[test]
    fn programs_end_alike_on_mini(program in program(Shape::MINI, 24), seed in any::<u64>()) {
        let image = assemble(&program.text())?;
        same_everywhere(&Shape::MINI.chip()?, &image, seed)?;
    }

    #[test]
    fn programs_end_alike_on_any_chip((program, set, seed) in any_run()) {
        let image = assemble(&program.text())?;
        same_everywhere(&settings_chip(&set)?, &image, seed)?;
    }
}
