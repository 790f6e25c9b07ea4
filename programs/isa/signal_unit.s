# signal.unit: the next macro-instruction adds to a semaphore of another unit when it is done: a tile t is unit t, the processor
# of cluster c is 0x100 + c, the chip processor 0x200. Tile 0 wakes all three kinds; the chip processor answers for them.
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
    li r4, 1                    # tile 1
    li r5, 0x100                # cluster processor 0
    li r6, 0x200                # the chip processor
    li r7, 30
    signal.unit r4, 5, 2
    signal.unit r5, 5(r7), 3    # semaphore 35
    signal.unit r6, 6, 4
    dma.i32.i32 0, r1, r2, r3
    sem.wait 9, 1
    sem.read r8, 5              # the own semaphore 5 was not meant
    check_eq r8, 0, 1
    halt
tile_1:
    sem.wait 5, 2
    li r1, 0x200
    sem.post r1, 7, 1
    halt

.cluster
    rdsr r1, cluster
    bnez r1, end
    sem.wait 35, 3
    li r1, 0x200
    sem.post r1, 7, 1
end:
    halt

.chip
    sem.wait 6, 4
    sem.wait 7, 2               # tile 1 and cluster 0
    sem.post r0, 9, 1           # tile 0
    halt
