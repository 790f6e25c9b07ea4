//! Control processors: cycles of instructions, pushes, full queues, semaphore messages.

use super::*;

#[test]
fn instructions_take_their_cycles() {
    assert_eq!(run(&chip(), ".tile\n addi r1, r0, 1\n halt\n").cycles, 2);
    let text = ".tile\n addi r3, r0, 4\n shli r3, r3, 40\n rdsr r4, cycle\n lw r2, 0(r3)\n rdsr r5, cycle\n halt\n";
    let r = run(&chip(), text);
    assert_eq!((reg(&r, 0, 4), reg(&r, 0, 5)), (2, 2 + 1 + 3));
    assert_eq!(r.cycles, 2 + 1 + 3 + 1 + 1);
    let mut slow = chip();
    (slow.control.instruction_cycles, slow.control.load_cycles) = (2, 7);
    assert_eq!(run(&slow, text).cycles, 4 + 2 + 7 + 2 + 2);
}

/// A push: clauses of a cycle each, then `queue.push` cycles, the last of which is the instruction's own.
#[test]
fn a_push_takes_push_cycles() {
    let text = "
.tensor x, tsram, u8, [4096], payload
.tile
    rdsr r9, tile
    bne r9, r0, end
    li r1, x
    li r2, x + 2048
    li r3, 64
    rdsr r4, cycle
    signal 1, 1
    dma.u8.u8 0, r2, r1, r3
    rdsr r5, cycle
end:
    halt
";
    let r = run(&chip(), text);
    assert_eq!(reg(&r, 0, 5) - reg(&r, 0, 4), 1 + 1 + 8);
    assert_eq!(
        spent(&r, EngineKind::Tcp, 0, 0, Reason::Push),
        Ps(8 * CYCLE)
    );
}

/// With room for one operation in a queue, the third push waits until the second has left it.
#[test]
fn a_full_queue_holds_the_processor() {
    let text = "
.tensor x, tsram, u8, [65536], payload
.tile
    rdsr r9, tile
    bne r9, r0, end
    li r1, x
    li r2, x + 32768
    li r3, 25600
    dma.u8.u8 0, r2, r1, r3
    dma.u8.u8 0, r2, r1, r3
    dma.u8.u8 0, r2, r1, r3
    rdsr r5, cycle
end:
    halt
";
    let mut one = chip();
    one.queue.depth = 1;
    let r = run(&one, text);
    let copies = ops(&r, EngineKind::Tdma, 0);
    assert_eq!(copies.len(), 3);
    // The first leaves the queue at once, the second when the first has issued all, which makes room for the third.
    let second = end_of(copies[1], Reason::Semaphore);
    assert_eq!(copies[2].pushed.0, second);
    assert_eq!(reg(&r, 0, 5) * CYCLE, second);
    let waited = second - copies[1].pushed.0 - 8 * CYCLE;
    assert_eq!(
        spent(&r, EngineKind::Tcp, 0, 0, Reason::QueueFull),
        Ps(waited)
    );
    // A deep queue takes all three without a wait.
    let r = run(&chip(), text);
    assert_eq!(
        spent(&r, EngineKind::Tcp, 0, 0, Reason::QueueFull),
        Ps::ZERO
    );
}

/// From the poster's `rdsr` to the waiter's: the `rdsr` itself, the `sem.post`, the message.
#[test]
fn semaphore_messages_take_the_distance() {
    let own = "
.tile
    rdsr r1, tile
    rdsr r4, cycle
    sem.post r1, 1, 1
    sem.wait 1, 1
    rdsr r5, cycle
    halt
";
    let r = run(&chip(), own);
    assert_eq!(reg(&r, 1, 5) - reg(&r, 1, 4), 2 + 4);
    // The `sem.wait` takes its own cycle, then 3 of the 4 cycles of the message are left.
    assert_eq!(
        spent(&r, EngineKind::Tcp, 1, 0, Reason::Semaphore),
        Ps(3 * CYCLE)
    );

    let neighbour = "
.tile
    rdsr r1, tile
    bne r1, r0, waiter
    li r2, 1
    rdsr r4, cycle
    sem.post r2, 1, 1
    halt
waiter:
    sem.wait 1, 1
    rdsr r5, cycle
    halt
";
    let r = run(&chip(), neighbour);
    assert_eq!(reg(&r, 1, 5) - reg(&r, 0, 4), 2 + 20);
    let mut two = chip();
    (two.clusters, two.tiles_per_cluster) = (2, 1);
    let r = run(&two, neighbour);
    assert_eq!(reg(&r, 1, 5) - reg(&r, 0, 4), 2 + 80);
}

/// The latency is a whole number of cycles at any clock, although edges lie at fractions of a picosecond.
#[test]
fn messages_stay_on_clock_edges() {
    let text = "
.tile
    rdsr r1, tile
    li r6, 40
again:
    rdsr r4, cycle
    sem.post r1, 1, 1
    sem.wait 1, 1
    rdsr r5, cycle
    sub r7, r5, r4
    add r8, r8, r7
    addi r6, r6, -1
    bne r6, r0, again
    halt
";
    for hz in [2_150_000_000, 1_234_567_891, 999_999_937, 3_333_333_333] {
        let mut chip = chip();
        chip.clock_hz = hz;
        assert_eq!(reg(&run(&chip, text), 0, 8), 40 * 6, "{hz} Hz");
    }
}
