//! Properties of whole programs, drawn at random (`tilewright::testing`), and the fuzz targets over their corpus.
//!
//! Counts of cases and inputs are chosen so that this file takes under forty seconds on two busy cores.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::collections::BTreeSet;
use tilewright::asm::{assemble_text, disassemble, object};
use tilewright::isa::INFO;
use tilewright::machine::sanitize::{Kind, SanitizeOptions, sanitize};
use tilewright::testing::chips::{Shape, settings, settings_chip, shapes};
use tilewright::testing::fuzz;
use tilewright::testing::program::{Program, program};
use tilewright::testing::run::{Failure, assemble, load, same_everywhere, same_on_chips, untimed};
use tilewright::testing::state::{control_state, vector_state};

mod fuzzing;
mod strategies;

/// Most operations in the text of a program.
const SIZE: usize = 24;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        ..ProptestConfig::default()
    }
}

/// A program, and the settings of a chip of its shape.
fn any_run() -> impl Strategy<Value = (Program, Vec<String>)> {
    shapes().prop_flat_map(|shape| (program(shape, SIZE), settings(shape)))
}

proptest! {
    #![proptest_config(config(192))]

    /// Untimed in any order, timed, shuffled, on two threads, without data: the same bytes, and timed the same cycles.
    #[test]
    fn programs_end_alike_on_mini(program in program(Shape::MINI, SIZE), seed in any::<u64>()) {
        let image = assemble(&program.text())?;
        same_everywhere(&Shape::MINI.chip()?, &image, seed)?;
    }

    /// The same where clock, widths, depths and latencies are others.
    #[test]
    fn programs_end_alike_on_any_chip((program, set) in any_run(), seed in any::<u64>()) {
        let image = assemble(&program.text())?;
        same_everywhere(&settings_chip(&set)?, &image, seed)?;
    }

    /// What a program leaves behind does not depend on the chip's times.
    #[test]
    fn chips_of_a_shape_agree(
        (program, a, b) in shapes().prop_flat_map(|s| (program(s, SIZE), settings(s), settings(s)))
    ) {
        let chips = [program.shape.chip()?, settings_chip(&a)?, settings_chip(&b)?];
        same_on_chips(&chips, &assemble(&program.text())?)?;
    }

    /// What is synchronised by construction gives the sanitizer no race to report.
    #[test]
    fn programs_have_no_races(program in program(Shape::MINI, SIZE)) {
        let image = assemble(&program.text())?;
        let machine = load(&Shape::MINI.chip()?, &image, true)?;
        let run = sanitize(&machine, &SanitizeOptions::default());
        prop_assert!(run.result.is_ok());
        let races = [Kind::ReadUnderWrite, Kind::WriteUnderRead, Kind::WriteUnderWrite];
        let reports = &run.findings.reports;
        prop_assert!(!reports.iter().any(|r| races.contains(&r.kind)), "{}", run.findings);
    }

    /// Text, object and disassembly are forms of one program.
    #[test]
    fn disassembly_gives_the_same_object((program, _) in any_run()) {
        let image = assemble(&program.text())?;
        let bytes = object::write(&image);
        let read = object::read(&bytes).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(&read, &*image);
        let none = |_: &str| Err(std::io::Error::other("no includes"));
        let again = assemble_text("again.s", &disassemble(&read), &none).map_err(Failure::Assembly)?;
        prop_assert_eq!(&again.tile.words, &image.tile.words);
        prop_assert_eq!(&again.kernel_code.words, &image.kernel_code.words);
        prop_assert!(object::write(&again) == bytes);
    }
}
