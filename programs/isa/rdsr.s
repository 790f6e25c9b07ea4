# rdsr: ids and counts, read by every tile and every cluster processor, and the cycle counter.
.include "lib.inc"
.macro same a, b, code
    beq \a, \b, ok_\@
    trap \code
ok_\@:
.endm

.tile
    rdsr r1, tile
    rdsr r2, cluster
    rdsr r3, lane
    rdsr r4, tiles_per_cluster
    rdsr r5, clusters
    rdsr r6, tiles
    mul r7, r2, r4              # tile = cluster * tiles per cluster + lane
    add r7, r7, r3
    same r1, r7, 1
    mul r7, r4, r5
    same r6, r7, 2
    sltu r7, r3, r4             # lane < tiles per cluster, cluster < clusters
    sltu r8, r2, r5
    and r7, r7, r8
    check_eq r7, 1, 3
    rdsr r7, unit               # a tile's unit number is its index
    same r7, r1, 4
    rdsr r7, chip               # one chip, number 0
    check_eq r7, 0, 5
    rdsr r7, chips
    check_eq r7, 1, 6
    rdsr r7, cycle              # never goes back; always 0 without time
    rdsr r8, cycle
    sltu r7, r8, r7
    check_eq r7, 0, 7
    rdsr r0, tiles              # r0 stays zero
    check_eq r0, 0, 8
    halt

.cluster
    rdsr r1, cluster
    rdsr r2, unit               # cluster c is unit 0x100 + c
    addi r3, r1, 0x100
    same r2, r3, 20
    rdsr r2, tile               # the cluster's first tile
    rdsr r3, tiles_per_cluster
    mul r3, r3, r1
    same r2, r3, 21
    halt

.chip
    rdsr r1, unit
    check_eq r1, 0x200, 30
    halt
