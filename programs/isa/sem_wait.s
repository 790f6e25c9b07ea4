# sem.wait: the processor itself blocks until its unit's semaphore holds enough, and takes that much.
.include "lib.inc"
.tensor FLAG, tsram, i32, [1], control, values(0)

.tile
    rdsr r1, tile
    li r2, 1
    beq r1, r2, tile_1
    only_tile_0
    li r3, 60
    sem.post r0, 62, 5
    sem.wait 2(r3), 2           # semaphore 62: index and register
    sem.read r4, 62
    check_eq r4, 3, 1
    sem.wait 62, 3
    sem.read r4, 62
    check_eq r4, 0, 2
    sem.wait 62, 0              # nothing to wait for
    sem.post r2, 61, 1          # let tile 1 go; it answers twice
    sem.wait 63, 2
    halt
tile_1:
    sem.wait 61, 1
    sem.post r0, 63, 1
    sem.post r0, 63, 1
    halt
