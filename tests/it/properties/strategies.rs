//! The strategies draw what they promise: every instruction, programs that need their semaphores, states that instructions
//! change as they say.

use super::*;

fn runner() -> TestRunner {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(Config::default(), rng)
}

fn draw<S: Strategy>(strategy: S, count: usize) -> Vec<S::Value> {
    let mut runner = runner();
    let value = |_| strategy.new_tree(&mut runner).unwrap().current();
    (0..count).map(value).collect()
}

#[test]
fn programs_use_the_whole_instruction_set() {
    let mut seen = BTreeSet::new();
    for (program, _) in draw(any_run(), 300) {
        let image = assemble(&program.text()).unwrap();
        let sections = [&image.tile, &image.cluster, &image.chip, &image.kernel_code];
        seen.extend(
            sections
                .iter()
                .flat_map(|s| &s.insts)
                .map(|i| i.info().name),
        );
    }
    // What would need data in control flow, or depends on time.
    let left_out = [
        "divu",
        "remu",
        "beq",
        "bge",
        "bltu",
        "bgeu",
        "jal",
        "jalr",
        "lbu",
        "lw",
        "ld",
        "sb",
        "ldc",
        "sem.read",
        "net.signal",
        "trap",
        "rdflags",
    ];
    let missing: Vec<_> = INFO
        .iter()
        .map(|i| i.name)
        .filter(|n| !seen.contains(n) && !left_out.contains(n))
        .collect();
    assert!(missing.is_empty(), "never drawn: {missing:?}");
}

/// Waits are what keeps a program right: without them, most orders of execution differ.
#[test]
fn programs_need_their_waits() {
    let mut differ = 0;
    for program in draw(program(Shape::MINI, SIZE), 60) {
        let text = program.text();
        let waits = |line: &&str| {
            let line = line.trim_start();
            !line.starts_with("wait ") && !line.starts_with("sem.wait ")
        };
        let bare: Vec<&str> = text.lines().filter(waits).collect();
        let image = assemble(&bare.join("\n")).unwrap();
        let ends = same_everywhere(&Shape::MINI.chip().unwrap(), &image, 7);
        differ += u32::from(matches!(ends, Err(Failure::Bytes { .. })));
    }
    assert!(
        differ > 20,
        "{differ} of 60 programs end differently without their waits"
    );
}

#[test]
fn a_failing_program_shrinks_to_what_fails() {
    // Any program with a product counts as a failure: the smallest has one operation, and still assembles and runs.
    let mut runner = runner();
    let failed = runner.run(&program(Shape::MINI, SIZE), |p| {
        match p.text().contains("mm.acc") {
            true => Err(TestCaseError::fail("a product")),
            false => Ok(()),
        }
    });
    let Err(proptest::test_runner::TestError::Fail(_, smallest)) = failed else {
        panic!("no product was drawn: {failed:?}");
    };
    assert_eq!(
        (smallest.operations(), smallest.segments.len()),
        (1, 1),
        "{smallest:?}"
    );
    let text = format!("{smallest:?}");
    untimed(&Shape::MINI.chip().unwrap(), &assemble(&text).unwrap(), 0).unwrap();
}

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn code_that_does_nothing_leaves_the_state(v in vector_state(), c in control_state()) {
        prop_assert_eq!(&v.run("")?, &v);
        prop_assert_eq!(c.run("nop")?, c);
    }

    #[test]
    fn what_is_not_written_is_kept(v in vector_state()) {
        let mut after = v.run("vadd.i32 v5, v0, v1 ?p2\nsadd s7, s1, s2\npand p4, p2, p3")?;
        for (lane, word) in after.words(5).into_iter().enumerate() {
            let sum = v.words(0)[lane].wrapping_add(v.words(1)[lane]);
            prop_assert_eq!(word, if v.p[2][lane] { sum } else { v.words(5)[lane] });
        }
        prop_assert_eq!(after.s[6], v.s[0].wrapping_add(v.s[1]));
        let both: Vec<bool> = v.p[2].iter().zip(&v.p[3]).map(|(a, b)| *a && *b).collect();
        prop_assert_eq!(&after.p[4], &both);
        after.v[5].clone_from(&v.v[5]);
        after.s[6] = v.s[6];
        after.p[4].clone_from(&v.p[4]);
        prop_assert_eq!(after, v);
    }

    #[test]
    fn control_code_computes(c in control_state()) {
        let after = c.run("sub r3, r1, r2\nmul r4, r3, r30")?;
        let difference = c.r[0].wrapping_sub(c.r[1]);
        prop_assert_eq!(after.r[2], difference);
        prop_assert_eq!(after.r[3], difference.wrapping_mul(c.r[29]));
        prop_assert_eq!(&after.r[4..], &c.r[4..]);
    }
}
