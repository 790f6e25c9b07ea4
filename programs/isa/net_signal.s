# net.signal: adds to a semaphore of a unit of another chip, after the earlier operations of the queue. Here chip 0, itself.
.include "lib.inc"
.equ WORDS, 16384                                           # enough to be on its way for a while
.tensor IN, hbm, i32, [WORDS], payload, iota
.tensor LOCAL, tsram, i32, [WORDS], payload, values(-1)
.tensor OUT, hbm, i32, [WORDS], payload
.expect OUT, iota

.tile
    only_tile_0
    li r1, LOCAL
    li r2, IN
    li r3, 4 * WORDS
    net.put r0, r1, r2, r3
    net.signal r0, r0, 7, 3     # to unit 0, tile 0: the data is there
    li r1, OUT
    li r2, LOCAL
    li r3, WORDS
    wait 7, 3
    signal 8, 1
    dma.i32.i32 0, r1, r2, r3
    sem.wait 8, 1
    sem.read r4, 7              # three came, three were taken
    check_eq r4, 0, 1
    halt
