# wait: the next macro-instruction waits at its queue's head until its unit's semaphores hold enough, and takes that much.
.include "lib.inc"
.tensor A, hbm, i32, [4], payload, values(1, 2, 3, 4)
.tensor B, tsram, i32, [4], payload, values(-1)
.tensor C, hbm, i32, [4], payload
.expect C, values(1, 2, 3, 4)

.tile
    only_tile_0
    li r1, C
    li r2, B
    li r3, 4
    li r5, 10
    # Pushed first, on channel 1, it must run last: it waits for the load of B, on channel 0, and for two more.
    wait 0, 1
    wait 1(r5), 2               # semaphore 11: index and register
    wait 12, 1
    signal 20, 1
    dma.i32.i32 1, r1, r2, r3
    li r1, B
    li r2, A
    signal 0, 1
    dma.i32.i32 0, r1, r2, r3
    sem.post r0, 11, 3          # one more than is taken
    sem.post r0, 12, 1
    sem.wait 20, 1
    sem.read r4, 11
    check_eq r4, 1, 1
    sem.read r4, 12
    check_eq r4, 0, 2
    halt
