//! The programs on the reference pages: each assembles and runs, untimed and timed, and ends as its page says.

use std::sync::Arc;
use tilewright::asm::assemble_text;
use tilewright::chip::Chip;
use tilewright::isa::image::Image;
use tilewright::isa::{INFO, Inst, InstInfo, doc};
use tilewright::machine::{LoadOptions, Machine, RunError, UntimedLimits, run_untimed};
use tilewright::timing::{self, TimedOptions};

fn image(info: &InstInfo) -> Arc<Image> {
    let none = |_: &str| Err(std::io::Error::other("no includes"));
    let assembled = assemble_text("page.s", &doc::program(info), &none);
    Arc::new(assembled.unwrap_or_else(|e| panic!("{}: {}", info.name, e.render(false))))
}

fn contains(image: &Image, info: &InstInfo) -> bool {
    let programs = [&image.tile, &image.cluster, &image.chip, &image.kernel_code];
    let mut insts = programs.iter().flat_map(|section| &section.insts);
    insts.any(|inst: &Inst| inst.op() == info.op)
}

fn run_both(chip: &Arc<Chip>, image: &Arc<Image>) -> [Result<Machine, RunError>; 2] {
    let load = || Machine::load(chip.clone(), image.clone(), &LoadOptions::default()).unwrap();
    let mut machine = load();
    let limits = UntimedLimits {
        max_steps: 100_000,
        ..UntimedLimits::default()
    };
    let untimed = run_untimed(&mut machine, &limits).map(|_| machine);
    let timed = timing::run(load(), &TimedOptions::default()).map(|run| run.machine);
    [untimed, timed]
}

#[test]
fn every_example_assembles_and_runs() {
    let chip = Arc::new(Chip::preset("mini").unwrap());
    for info in INFO.iter() {
        let image = image(info);
        assert!(contains(&image, info), "{}: not in its program", info.name);
        for result in run_both(&chip, &image) {
            match (result, info.name) {
                (Err(e), "trap") => {
                    assert_eq!(e.exit_code(), 1);
                    assert!(e.to_string().ends_with(": trap 1"), "{e}");
                }
                (Ok(_), "trap") => panic!("`trap` does not trap"),
                (Err(e), name) => panic!("{name}: {e}\n{}", doc::program(info)),
                (Ok(machine), _) => {
                    for tensor in &image.tensors {
                        // What the program gives is there in both runs.
                        machine.tensor_bytes(&tensor.name).unwrap();
                    }
                }
            }
        }
    }
}

/// The comments of the programs that say what a register holds at the end.
#[test]
fn examples_give_what_they_say() {
    let chip = Arc::new(Chip::preset("mini").unwrap());
    let mut checked = 0;
    for info in INFO.iter().filter(|i| i.name != "trap") {
        let text = doc::program(info);
        let says = text.lines().filter_map(|l| l.split_once("# r1 = "));
        for (_, value) in says {
            let wanted: i64 = match value {
                "5 + 2^32" => 5 + (1 << 32),
                value => value.parse().unwrap(),
            };
            for machine in run_both(&chip, &image(info)) {
                let got = machine.unwrap().tile(0).core.regs[1];
                assert_eq!(got as i64, wanted, "{}", info.name);
            }
            checked += 1;
        }
        let tensor = text.lines().filter_map(|l| l.split_once("# X = "));
        for (_, values) in tensor.filter(|(_, v)| v.contains(", ") && !v.contains("rounded")) {
            let wanted: Vec<i64> = values.split(", ").map(|v| v.parse().unwrap()).collect();
            for machine in run_both(&chip, &image(info)) {
                let bytes = machine.unwrap().tensor_bytes("X").unwrap();
                let size = bytes.len() / wanted.len();
                let number = |b: &[u8]| b.iter().rev().fold(0, |n, b| n << 8 | i64::from(*b));
                let got: Vec<i64> = bytes.chunks(size).map(number).collect();
                assert_eq!(got, wanted, "{}", info.name);
            }
            checked += 1;
        }
    }
    assert!(checked >= 9, "{checked} programs say what they give");
}
