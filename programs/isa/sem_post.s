# sem.post: the processor adds to a semaphore of its own or another unit, up to the largest value, 255.
.include "lib.inc"

.tile
    rdsr r1, tile
    li r2, 1
    beq r1, r2, tile_1
    only_tile_0
    li r3, 70
    sem.post r0, 2(r3), 200     # semaphore 72 of tile 0, itself
    sem.post r0, 72, 55
    sem.wait 72, 255            # both together
    li r4, 0x100
    sem.post r2, 73, 1          # tile 1
    sem.post r4, 73, 2          # cluster processor 0
    li r4, 0x200
    sem.post r4, 73, 3          # the chip processor
    sem.wait 74, 3              # all have answered
    sem.read r5, 73
    check_eq r5, 0, 1
    halt
tile_1:
    sem.wait 73, 1
    sem.post r0, 74, 1
    halt

.cluster
    rdsr r1, cluster
    bnez r1, end
    sem.wait 73, 2
    sem.post r0, 74, 1
end:
    halt

.chip
    sem.wait 73, 3
    sem.post r0, 74, 1
    halt
