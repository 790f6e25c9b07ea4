# signal: the next macro-instruction adds to semaphores of its own unit when it is done, and not before.
.include "lib.inc"
.tensor A, hbm, i32, [4], control, values(1, 2, 3, 4)
.tensor B, tsram, i32, [4], control, values(-1)

.tile
    only_tile_0
    li r1, B
    li r2, A
    li r3, 4
    li r5, 10
    signal 0, 1
    signal 1(r5), 7             # semaphore 11: index and register
    signal 11, 2                # twice the same one: both count
    dma.i32.i32 0, r1, r2, r3
    sem.wait 0, 1
    lw r4, 12(r1)               # the data is there
    check_eq r4, 4, 1
    sem.read r4, 11
    check_eq r4, 9, 2
    # The clauses were used up: another transfer signals only what is staged for it.
    signal 3, 1
    dma.i32.i32 0, r1, r2, r3
    sem.wait 3, 1
    sem.read r4, 11
    check_eq r4, 9, 3
    sem.wait 11, 9              # nothing is left behind
    halt
