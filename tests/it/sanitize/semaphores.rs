//! Semaphores that overflow or do not end as they began.

use super::*;
use Kind::{SemaphoreImbalance, SemaphoreOverflow};

#[test]
fn an_overflow_names_the_signal() {
    let text =
        tile_0(" sem.post r0, 3, 255\n signal 3, 1\n dma.u8.u8 0, r3, r1, r9 # A\n sem.wait 4, 1");
    let run = sanitized(&text, true, 0);
    assert!(matches!(run.result, Err(RunError::Trap(_))));
    let found: Vec<_> = run.findings.reports.iter().map(summary).collect();
    assert_eq!(found, [(SemaphoreOverflow, marked(&text, 'A'), 0)]);
    let state = run.findings.reports[0].semaphore.as_ref().unwrap();
    assert_eq!((state.sem, state.value), (3, 255));
}

#[test]
fn a_signal_that_nobody_takes_is_left() {
    reports(
        &tile_0(" signal 3, 1\n dma.u8.u8 0, r3, r1, r9 # A"),
        &[(SemaphoreImbalance, 'A', '-')],
    );
    // Two given, one taken.
    reports(
        &tile_0(
            " signal 3, 2\n dma.u8.u8 0, r3, r1, r9 # A\n wait 3, 1\n dma.u8.u8 0, r2, r3, r9 # B",
        ),
        &[(SemaphoreImbalance, 'A', 'B')],
    );
    // To another unit.
    reports(
        &tiles(" sem.post r7, 5, 1 # A", ""),
        &[(SemaphoreImbalance, 'A', '-')],
    );
    // By the same processor, but after it took.
    reports(
        &tile_0(" sem.post r0, 5, 1\n sem.wait 5, 1 # B\n sem.post r0, 5, 2 # A"),
        &[(SemaphoreImbalance, 'A', 'B')],
    );
}

#[test]
fn a_semaphore_may_end_as_free_as_it_began() {
    clean(&tile_0(
        " sem.post r0, 3, 2\n wait 3, 1\n signal 3, 1\n dma.u8.u8 0, r3, r1, r9",
    ));
    // Room that another unit's processor granted before.
    clean(&tiles(
        " sem.post r7, 5, 2\n",
        " wait 5, 1\n signal 5, 1\n dma.u8.u8 0, r3, r1, r9",
    ));
    // Or less so.
    clean(&tile_0(
        " sem.post r0, 3, 2\n wait 3, 1\n dma.u8.u8 0, r3, r1, r9",
    ));
    reports(
        &tile_0(" sem.post r0, 3, 2\n wait 3, 1\n signal 3, 2\n dma.u8.u8 0, r3, r1, r9 # A"),
        &[(SemaphoreImbalance, 'A', 'A')],
    );
}
