# matmul_multicast: C[M, N] = A[M, K] B[K, N] on all tiles, FP8 E4M3 operands, BF16 result, any sizes.
#
# What to learn here
#   - Multicast: all tiles of a cluster need the same panel of A. The cluster's processor loads it once and `mcast` copies it
#     into the SRAM of each tile, where the routes part: the memory is read once instead of once per tile.
#   - Two programs: the tiles (section .tile) compute, each cluster's processor (section .cluster) feeds them. Both walk the
#     same blocks in the same order, so they need not talk about anything but buffers.
#   - Semaphores between units: `signal.dest` tells each tile that its copy has arrived; `signal.unit` tells the cluster
#     processor that a tile is through with it. The processor collects one token per tile before a slot is filled again.
#
# The plan: C is cut into blocks of BM x BN. Cluster c takes rows of blocks c, c + clusters, ...; of these, the cluster's
# tiles take a group of neighbouring blocks at a time, one each (the last group may be short: the tiles left over sit
# out, and are not in its multicast).
#
#          | tile 0 | tile 1 | ...          A panel (BM x BK): HBM -> all tiles of the cluster
#   -------+--------+--------+              B strip (BK x BN): HBM -> the tile that owns the columns
#   A -->  |  C 0,0 |  C 0,1 |

.equ M, 512
.equ N, 1152
.equ K, 1024
.equ BM, 128
.equ BN, 128
.equ BK, 256                    # a multiple of 32, the tensor unit's block of k
.equ SLOTS, 3                   # of A and B
.equ STEPS, (K + BK - 1) / BK

.tensor A, hbm, e4m3, [M, K], payload, normal(1)
.tensor B, hbm, e4m3, [K, N], payload, normal(2)
.tensor C, hbm, bf16, [M, N], payload
.tensor A_BUF, tsram, e4m3, [SLOTS, BM, BK], payload
.tensor B_BUF, tsram, e4m3, [SLOTS, BK, BN], payload
.tensor C_BUF, tsram, bf16, [BM, BN], payload

.equ TILE_SPACE, 2 << 40        # SRAM of tile t: TILE_SPACE + (t << 32) + offset
.equ OWN_SPACE, 4 << 40
.equ CLUSTER_UNIT, 0x100        # the cluster processor c is unit 0x100 + c

# Semaphores of a tile
.equ A_FULL, 0                  # + slot: the panel has arrived
.equ B_FULL, 4
.equ B_FREE, 8
.equ C_FULL, 12
.equ C_FREE, 13
# Semaphores of a cluster processor
.equ A_FREE, 0                  # + slot: one from each tile that is through with the panel

# Registers that both programs use alike
.reg i,      r1                 # first row of the row of blocks
.reg istep,  r2
.reg group,  r3                 # first column of the group of blocks
.reg gstep,  r4
.reg kk,     r5                 # first k of the step
.reg bm,     r6                 # extents of the block and the step
.reg bn,     r7
.reg bk,     r8
.reg slot,   r9
.reg abuf,   r10
.reg bbuf,   r11
.reg lda,    r12                # bytes between rows in TSRAM
.reg ldb,    r13
.reg ldc,    r14
.reg hlda,   r15                # bytes between rows in HBM
.reg hldb,   r16
.reg hldc,   r17
.reg src,    r18
.reg t,      r19
.reg end,    r20
# Of the tile
.reg column, r21                # first column of this tile's block
.reg lane,   r22                # index of the tile in its cluster
.reg feeder, r23                # unit number of the cluster processor
.reg cbuf,   r24
.reg me,     r25
# Of the cluster processor
.reg lanes,  r21                # tiles per cluster
.reg active, r22                # tiles that have a block in this group
.reg mask,   r23
.reg left,   r24
.reg first,  r25                # the cluster's first tile
.reg self,   r26                # the cluster processor's unit number

# What both do first; defines the walk over blocks.
.macro begin
    rdsr i, cluster
    muli i, i, BM
    rdsr istep, clusters
    muli istep, istep, BM
    rdsr gstep, tiles_per_cluster
    muli gstep, gstep, BN
    li lda, BK
    li ldb, BN
    li ldc, BN * 2
    li hlda, K
    li hldb, N
    li hldc, N * 2
    li slot, 0
.endm

# \r = the smaller of \size and what is left from \at to \limit
.macro extent r, at, limit, size
    li t, \limit
    sub \r, t, \at
    li t, \size
    min \r, \r, t
.endm

.macro next_slot
    inc slot
    slti t, slot, SLOTS
    mul slot, slot, t           # SLOTS wraps to 0
.endm

.cluster
    begin
    rdsr lanes, tiles_per_cluster
    rdsr first, tile            # of a cluster processor: its first tile

    rdsr self, unit
    mv left, lanes
tokens:                         # all slots start free: one token for each tile
.set s, 0
.rept SLOTS
    sem.post self, A_FREE + s, 1
.set s, s + 1
.endr
    dec left
    bnez left, tokens

feed_rows:
    li end, M
    bge i, end, feed_done
    extent bm, i, M, BM
    li group, 0
feed_group:
    li end, N
    bge group, end, feed_next_rows
    # active = min(lanes, ceil((N - group) / BN)); mask = the first `active` tiles of the cluster
    sub active, end, group
    addi active, active, BN - 1
    li t, BN
    divu active, active, t
    min active, active, lanes
    li mask, 1
    shl mask, mask, active
    dec mask
    shl mask, mask, first

    li kk, 0
feed_step:
    extent bk, kk, K, BK
    muli abuf, slot, BM * BK
    li t, A_BUF - OWN_SPACE + TILE_SPACE    # with `mcast`, only the offset counts
    add abuf, abuf, t
    mul src, i, hlda
    add src, src, kk
    li t, A
    add src, src, t
    # One token from each tile: none may still read the slot. A `wait` clause takes a fixed number, so the processor takes
    # them itself.
    mv left, lanes
collect:
    sem.wait A_FREE(slot), 1
    dec left
    bnez left, collect
    # Tiles that sit out give no token for this use: it goes back in their place.
    sub left, lanes, active
    beqz left, load
give_back:
    sem.post self, A_FREE(slot), 1
    dec left
    bnez left, give_back
load:
    signal.dest A_FULL(slot), 1
    mcast mask
    dim bm, lda, hlda
    dma.e4m3.e4m3 0, abuf, src, bk

    next_slot
    addi kk, kk, BK
    li end, K
    blt kk, end, feed_step
    add group, group, gstep
    j feed_group
feed_next_rows:
    add i, i, istep
    j feed_rows
feed_done:
    halt

.tile
    begin
    rdsr me, tile
    rdsr lane, lane
    rdsr feeder, cluster
    addi feeder, feeder, CLUSTER_UNIT
    li cbuf, C_BUF
    sem.post me, C_FREE, 1
.set s, 0
.rept SLOTS
    sem.post me, B_FREE + s, 1
.set s, s + 1
.endr

rows:
    li end, M
    bge i, end, finish
    extent bm, i, M, BM
    li group, 0
columns:
    li end, N
    bge group, end, next_rows
    muli column, lane, BN
    add column, column, group
    bge column, end, sit_out
    extent bn, column, N, BN

    li kk, 0
step:
    extent bk, kk, K, BK
    muli abuf, slot, BM * BK
    li t, A_BUF
    add abuf, abuf, t
    muli bbuf, slot, BK * BN
    li t, B_BUF
    add bbuf, bbuf, t

    # The own strip of B: B[kk .. kk + bk, column .. column + bn]
    mul src, kk, hldb
    add src, src, column
    li t, B
    add src, src, t
    wait B_FREE(slot), 1
    signal B_FULL(slot), 1
    dim bk, ldb, hldb
    dma.e4m3.e4m3 0, bbuf, src, bn

    wait A_FULL(slot), 1
    wait B_FULL(slot), 1
    signal B_FREE(slot), 1
    signal.unit feeder, A_FREE(slot), 1
    bnez kk, add_up
    mm.new.e4m3.e4m3.mk.kn r0, abuf, bbuf, bm, bn, bk, lda, ldb
    j stepped
add_up:
    mm.acc.e4m3.e4m3.mk.kn r0, abuf, bbuf, bm, bn, bk, lda, ldb
stepped:
    next_slot
    addi kk, kk, BK
    li end, K
    blt kk, end, step

    wait C_FREE, 1
    signal C_FULL, 1
    mm.store.bf16 r0, cbuf, bm, bn, ldc

    mul src, i, hldc
    shli t, column, 1
    add src, src, t
    li t, C
    add src, src, t
    wait C_FULL, 1
    signal C_FREE, 1
    dim bm, hldc, ldc
    dma.bf16.bf16 1, src, cbuf, bn

    add group, group, gstep
    j columns
sit_out:                        # of a short group, the last of its row: keep step with the feeder's slots
    addi slot, slot, STEPS
    li t, SLOTS
    remu slot, slot, t
next_rows:
    add i, i, istep
    j rows
finish:
    halt
