//! Runs that end early: cycle limit, deadlock, endless loops, traps, host memory.

use super::*;
use tilewright::machine::trap::TrapKind;

fn error(text: &str, options: &TimedOptions) -> RunError {
    match try_run(&chip(), text, options) {
        Ok(run) => panic!("ended after {} cycles", run.cycles),
        Err(error) => error,
    }
}

fn limited(max_cycles: u64) -> TimedOptions {
    TimedOptions {
        max_cycles: Some(max_cycles),
        ..TimedOptions::default()
    }
}

const WORK: &str =
    ".tile\n rdsr r1, tile\n sem.post r1, 1, 1\n sem.wait 1, 1\n addi r1, r1, 1\n halt\n";

#[test]
fn the_cycle_limit_ends_a_run_that_is_not_over() {
    let cycles = run(&chip(), WORK).cycles;
    for threads in [1, 2] {
        let options = |max| TimedOptions {
            threads,
            ..limited(max)
        };
        assert_eq!(
            error(WORK, &options(cycles - 1)),
            RunError::CycleLimit(cycles - 1)
        );
        assert_eq!(error(WORK, &options(0)), RunError::CycleLimit(0));
        assert_eq!(
            try_run(&chip(), WORK, &options(cycles)).unwrap().cycles,
            cycles
        );
    }
}

/// Polling memory for a value that never comes has no end of its own.
#[test]
fn the_cycle_limit_ends_a_polling_loop() {
    let text = ".tensor x, tsram, i32, [64], control, zero\n.tile\n li r1, x\nagain:\n lw r2, 0(r1)\n beq r2, r0, again\n halt\n";
    assert_eq!(
        error(text, &limited(100_000)),
        RunError::CycleLimit(100_000)
    );
}

#[test]
fn a_deadlock_names_who_waits() {
    let path = format!("{}/programs/kernels/deadlock.s", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    for threads in [1, 4] {
        let options = TimedOptions {
            threads,
            ..TimedOptions::default()
        };
        let RunError::Deadlock(report) = error(&text, &options) else {
            panic!("no deadlock")
        };
        assert!(report.to_string().contains("semaphore"), "{report}");
    }
    let waits = error(".tile\n sem.wait 7, 1\n halt\n", &TimedOptions::default());
    assert!(matches!(waits, RunError::Deadlock(_)), "{waits}");
    assert_eq!(waits.exit_code(), 4);
}

#[test]
fn a_spinning_processor_is_found() {
    let spin = error(".tile\nagain:\n j again\n", &TimedOptions::default());
    let RunError::Spin(trap) = &spin else {
        panic!("{spin}")
    };
    assert!(matches!(trap.kind, TrapKind::Spin { .. }));
    assert_eq!(spin.exit_code(), 4);
}

#[test]
fn traps_name_their_instruction() {
    for (body, kind) in [
        (" addi r1, r1, 1\n", TrapKind::PastEnd { len: 1 }),
        (" trap 7\n halt\n", TrapKind::Program(7)),
        (" divu r1, r1, r0\n halt\n", TrapKind::DivideByZero),
    ] {
        for threads in [1, 2] {
            let options = TimedOptions {
                threads,
                ..TimedOptions::default()
            };
            let RunError::Trap(trap) = error(&format!(".tile\n{body}"), &options) else {
                panic!("no trap")
            };
            assert_eq!(trap.kind, kind);
        }
    }
    // An overflow of a semaphore.
    let text = ".tile\n li r2, 300\nagain:\n sem.post r0, 1, 1\n addi r2, r2, -1\n bne r2, r0, again\n halt\n";
    let RunError::Trap(trap) = error(text, &TimedOptions::default()) else {
        panic!("no trap")
    };
    assert!(matches!(
        trap.kind,
        TrapKind::SemaphoreOverflow { sem: 1, .. }
    ));
}

/// A transfer that needs more pages than the host may give: the error of the one who started it.
#[test]
fn the_host_memory_limit_ends_a_run() {
    let text = "
.tensor y, hbm, u8, [16777216], payload
.tensor x, tsram, u8, [131072], payload, normal(1)
.tile
    li r1, y
    li r2, x
    li r3, 131072
    li r4, 100
    li r5, 131072
    dim r4, r5, r0
    dma.u8.u8 0, r1, r2, r3
    halt
";
    let options = LoadOptions {
        data: true,
        memory_limit: 4 << 20,
    };
    let machine = Machine::load(Arc::new(chip()), image(text), &options).unwrap();
    let Err(error) = timing::run(machine, &TimedOptions::default()) else {
        panic!("ran to its end")
    };
    assert!(
        matches!(error, RunError::MemoryLimit { limit } if limit == 4 << 20),
        "{error}"
    );
}

#[test]
fn an_overflow_names_the_instruction_that_posted() {
    let text = ".tile\n li r1, 0\nx: sem.post r1, 0, 1\n jal r0, x\n";
    let RunError::Trap(trap) = error(text, &TimedOptions::default()) else {
        panic!("a trap is due");
    };
    assert_eq!(trap.place.as_deref(), Some("t.s:3"));
    assert!(trap.to_string().contains("overflows"), "{trap}");
}
