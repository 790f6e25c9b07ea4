# signal.tiles: the next macro-instruction adds to the same semaphore of every tile of a mask when it is done.
.include "lib.inc"
.tensor A, hbm, i32, [4], payload, values(1, 2, 3, 4)
.tensor B, tsram, i32, [4], payload, values(-1)

.tile
    rdsr r1, tile
    li r2, 1
    beq r1, r2, tile_1
    only_tile_0
    li r1, B
    li r2, A
    li r3, 4
    li r4, 0b11                 # tiles 0 and 1
    li r5, 40
    li r6, 0b10                 # tile 1 only
    signal.tiles r4, 2(r5), 5   # semaphore 42
    signal.tiles r6, 43, 1
    dma.i32.i32 0, r1, r2, r3
    sem.wait 42, 5
    sem.read r7, 43
    check_eq r7, 0, 1
    sem.wait 44, 1              # tile 1 was told too
    halt
tile_1:
    sem.wait 42, 5
    sem.wait 43, 1
    sem.post r0, 44, 1
    halt
