# halt: the processor stops; what it pushed before goes on to its end. Nothing after it runs.
.include "lib.inc"
.tensor DATA, tsram, i32, [4], payload, values(1, 2, 3, 4)
.tensor OUT, hbm, i32, [4], payload
.expect OUT, values(1, 2, 3, 4)

.tile
    only_tile_0
    li r1, OUT
    li r2, DATA
    li r3, 4
    wait 0, 1
    dma.i32.i32 0, r1, r2, r3   # still waits when the processor stops: cluster 0 lets it go
    halt
    trap 1

.cluster
    rdsr r1, cluster
    bnez r1, end
    sem.post r0, 0, 1           # unit 0 is tile 0
end:
    halt
