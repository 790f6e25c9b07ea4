# signal.dest: every unit that a transfer writes adds to its semaphore once all bytes are there. Here: multicast to tiles 0 and 1,
# then a transfer into CSRAM, whose cluster processor is told.
.include "lib.inc"
.tensor A, hbm, i32, [4], control, values(1, 2, 3, 4)
.tensor B, tsram, i32, [4], control, values(-1)
.tensor C, csram, i32, [4], control, values(-1)

.tile
    rdsr r1, tile
    li r2, 1
    beq r1, r2, receive
    only_tile_0
    li r1, B
    li r2, A
    li r3, 4
    li r4, 0b11
    li r5, 50
    mcast r4
    signal.dest 1(r5), 2        # semaphore 51
    dma.i32.i32 0, r1, r2, r3
    li r1, C
    signal.dest 52, 1
    dma.i32.i32 0, r1, r2, r3
    sem.wait 53, 2              # tile 1 and the cluster processor have checked theirs
    sem.read r6, 52             # the cluster's semaphore, not this tile's
    check_eq r6, 0, 1
receive:
    li r1, B
    sem.wait 51, 2
    lw r6, 0(r1)
    check_eq r6, 1, 2
    lw r6, 12(r1)
    check_eq r6, 4, 3
    rdsr r1, tile
    beqz r1, end
    sem.post r0, 53, 1
end:
    halt

.cluster
    rdsr r1, cluster
    bnez r1, cluster_end
    sem.wait 52, 1
    li r1, C
    lw r6, 12(r1)
    check_eq r6, 4, 4
    sem.post r0, 53, 1
cluster_end:
    halt
