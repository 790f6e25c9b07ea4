//! Every trap that the ISA names, for every instruction that it names it for: the cases are in `traps.txt`.

use super::*;
use std::collections::BTreeSet;
use tilewright::isa::INFO;

/// A chip on which an index of 8 bits can name a semaphore that does not exist.
fn few_semaphores(place: &str) -> Arc<Chip> {
    let mut chip = Chip::preset("mini").unwrap();
    chip.set("semaphores.count=64").unwrap();
    if place == "few lanes" {
        chip.set("tvp.lanes_32=24").unwrap();
    }
    Arc::new(chip)
}

/// The program of a case; see the head of `traps.txt`.
fn program(place: &str, lines: &str) -> String {
    let end = (4 << 40) + chip().tsram.size_bytes - 16;
    let tensors = ".tensor x, tsram, u8, [1024], payload\n.tensor h, hbm, u8, [1024], payload, zero\n.const c, 1, 2";
    let setup = format!(
        "rdsr r10, tile\nbne r10, r0, done\nli r1, x\nli r2, h\nli r3, 3\nli r4, 256\nli r5, {end:#x}\n\
         li r6, -1\nli r7, 0xffffffffff\nli r8, 0\nli r9, 1"
    );
    let (kernel, tile) = match place {
        "kernel" | "few lanes" => (lines, "vrun k, r1, 5"),
        _ => ("", lines),
    };
    format!("{tensors}\n.kernel k\n{kernel}\nvret\n.tile\n{setup}\n{tile}\ndone:\nhalt\n")
}

#[test]
fn every_trap_of_the_isa() {
    let mut covered = BTreeSet::new();
    let cases = include_str!("traps.txt").lines();
    for case in cases.filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = case.split(" | ").collect();
        let [name, trap, place, message, lines] = fields[..] else {
            panic!("not five fields: {case}");
        };
        let text = program(place, &lines.replace(" ; ", "\n"));
        let mut machine = load_on(few_semaphores(place), &text, place != "no data").unwrap();
        let Err(error) = run_machine(&mut machine, 0) else {
            panic!("no error: {case}");
        };
        assert_eq!(error.exit_code(), 1, "{case}");
        let error = error.to_string();
        assert!(error.contains(message), "{case}\n{error}");
        assert!(error.starts_with("tile 0, t.s:"), "{case}\n{error}");
        // The instruction of the case is to blame; for a clause, the one that uses it.
        let blamed = error.split('`').nth(1).unwrap_or_default();
        let clause = ["dim", "mcast", "gather", "signal"];
        let is_clause = clause.contains(&name.split('.').next().unwrap()) || name == "mm.scale";
        assert!(is_clause || blamed.starts_with(name), "{case}\n{error}");
        let info = INFO.iter().find(|i| i.name == name);
        let info = info.unwrap_or_else(|| panic!("no such instruction: {case}"));
        assert!(
            info.traps.contains(&trap),
            "the ISA names no such trap: {case}"
        );
        covered.insert((info.name, trap));
    }
    let all: BTreeSet<(&str, &str)> = INFO
        .iter()
        .flat_map(|i| i.traps.iter().map(|t| (i.name, *t)))
        .collect();
    let missing: Vec<_> = all.difference(&covered).collect();
    assert!(missing.is_empty(), "traps without a case: {missing:#?}");
}

#[test]
fn processors_have_their_own_instructions() {
    for (processor, line) in [
        ("cluster", "mm.load r0, r0, r1, r1, r1"),
        ("cluster", "mm.store.f32 r0, r0, r1, r1, r1"),
        (
            "cluster",
            "mm.new.e4m3.e4m3.mk.kn r0, r0, r0, r1, r1, r1, r1, r1",
        ),
        ("cluster", "vrun k, r0, 0"),
        ("chip", "vrun k, r0, 0"),
        ("chip", "dma.u8.u8 0, r0, r0, r1"),
        ("chip", "dma.q.floor.f32.e2m1 0, r0, r0, r1, r0, r1, r0"),
        ("chip", "lbu r2, 0(r0)"),
        ("chip", "sb r2, 0(r0)"),
    ] {
        let text = format!(".kernel k\n vret\n.{processor}\n li r1, 4\n {line}\n halt\n");
        let error = failure(&text, true).to_string();
        let message = format!("not available on the {processor} processor");
        assert!(error.ends_with(&message), "{processor} {line}: {error}");
    }
}

#[test]
fn programs_and_kernels_must_end() {
    let error = failure(".tile\n addi r1, r1, 1\n", true).to_string();
    assert!(
        error.contains("the program ends at word 1 without `halt`"),
        "{error}"
    );
    let kernel = |body: &str| {
        format!(".kernel k\n{body}\n.tile\n li r1, 0x7fffffffffff\n vrun k, r1, 1\n halt\n")
    };
    let error = failure(&kernel(" loop s2, 2\n vret"), true).to_string();
    assert!(
        error.contains("t.s:3 `vret`: the kernel ends without `vret`"),
        "{error}"
    );
    let error = failure(
        &kernel(" loop s1, end\n saddi s2, s2, 1\nend:\n vret"),
        true,
    )
    .to_string();
    assert!(
        error.contains("the kernel ran 268435456 instructions without ending"),
        "{error}"
    );
}
