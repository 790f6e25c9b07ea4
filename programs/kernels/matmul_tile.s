# matmul_tile: C[M, N] = A[M, K] B[K, N] on one tile, BF16, any sizes.
#
# What to learn here
#   - The tensor unit works on operands in TSRAM and keeps its sums in an accumulator RAM of 32 x 32 FP32 blocks. `mm.new`
#     starts a sum, `mm.acc` adds to it, `mm.store` rounds it and writes it to TSRAM.
#   - Blocking: C is computed in blocks of BM x BN, each over K in steps of BK. An element that is loaded once is used BM or
#     BN times: that is what keeps a tensor unit busy on a memory that delivers far less than it consumes.
#   - Double buffering through registers: `slot` is 0 or 1, buffers and semaphores are indexed by it.
#   - The edges: `min` shortens the last block of each dimension; `mm` treats what is past an edge as absent.
#
# Tile 0 does all; see matmul_multicast.s for the whole chip.

.equ M, 200
.equ N, 300
.equ K, 500
.equ BM, 128                    # BM / 32 * BN / 32 = 16 accumulator blocks of 64, twice
.equ BN, 128
.equ BK, 64

.tensor A, hbm, bf16, [M, K], payload, normal(1)
.tensor B, hbm, bf16, [K, N], payload, normal(2)
.tensor C, hbm, bf16, [M, N], payload
.tensor A_BUF, tsram, bf16, [2, BM, BK], payload
.tensor B_BUF, tsram, bf16, [2, BK, BN], payload
.tensor C_BUF, tsram, bf16, [2, BM, BN], payload

# Semaphores of slot 0 and 1
.equ A_FREE, 0
.equ B_FREE, 2
.equ AB_FULL, 4                 # A and B add one each
.equ C_FREE, 6
.equ C_FULL, 8

.reg i,    r1                   # block of C: first row, first column
.reg jj,   r2
.reg kk,   r3                   # first k of the step
.reg bm,   r4                   # extents of the block and the step
.reg bn,   r5
.reg bk,   r6
.reg slot, r7                   # of A_BUF and B_BUF
.reg cslot, r8                  # of C_BUF and the accumulators
.reg abuf, r9
.reg bbuf, r10
.reg cbuf, r11
.reg acc,  r12
.reg lda,  r13                  # bytes between rows in TSRAM
.reg ldb,  r14
.reg hlda, r15                  # bytes between rows in HBM: of A, and of B and C
.reg hldb, r16
.reg src,  r17
.reg dst,  r18
.reg t,    r19
.reg lim,  r20

.tile
    rdsr t, tile
    bnez t, finish
    li lda, BK * 2
    li ldb, BN * 2
    li hlda, K * 2
    li hldb, N * 2
    li slot, 0
    li cslot, 0
.set s, 0
.rept 2
    sem.post r0, A_FREE + s, 1  # r0 is 0: tile 0, this one
    sem.post r0, B_FREE + s, 1
    sem.post r0, C_FREE + s, 1
.set s, s + 1
.endr

    li i, 0
rows:
    li lim, M
    bge i, lim, finish
    sub bm, lim, i
    li t, BM
    min bm, bm, t

    li jj, 0
columns:
    li lim, N
    bge jj, lim, next_rows
    sub bn, lim, jj
    li t, BN
    min bn, bn, t
    muli cbuf, cslot, BM * BN * 2
    li t, C_BUF
    add cbuf, cbuf, t
    muli acc, cslot, (BM / 32) * (BN / 32)

    li kk, 0
step:
    li lim, K
    sub bk, lim, kk
    li t, BK
    min bk, bk, t
    muli abuf, slot, BM * BK * 2
    li t, A_BUF
    add abuf, abuf, t
    muli bbuf, slot, BK * BN * 2
    li t, B_BUF
    add bbuf, bbuf, t

    # A[i .. i + bm, kk .. kk + bk]
    mul src, i, hlda
    shli t, kk, 1
    add src, src, t
    li t, A
    add src, src, t
    wait A_FREE(slot), 1
    signal AB_FULL(slot), 1
    dim bm, lda, hlda
    dma.bf16.bf16 0, abuf, src, bk

    # B[kk .. kk + bk, jj .. jj + bn]
    mul src, kk, hldb
    shli t, jj, 1
    add src, src, t
    li t, B
    add src, src, t
    wait B_FREE(slot), 1
    signal AB_FULL(slot), 1
    dim bk, ldb, hldb
    dma.bf16.bf16 1, bbuf, src, bn

    wait AB_FULL(slot), 2
    signal A_FREE(slot), 1
    signal B_FREE(slot), 1
    bnez kk, add_up
    mm.new.bf16.bf16.mk.kn acc, abuf, bbuf, bm, bn, bk, lda, ldb
    j stepped
add_up:
    mm.acc.bf16.bf16.mk.kn acc, abuf, bbuf, bm, bn, bk, lda, ldb
stepped:
    xori slot, slot, 1
    addi kk, kk, BK
    blt kk, lim, step

    # The tensor unit's queue is in order: the store comes after the sums without a semaphore.
    wait C_FREE(cslot), 1
    signal C_FULL(cslot), 1
    mm.store.bf16 acc, cbuf, bm, bn, ldb

    mul dst, i, hldb
    shli t, jj, 1
    add dst, dst, t
    li t, C
    add dst, dst, t
    wait C_FULL(cslot), 1
    signal C_FREE(cslot), 1
    dim bm, hldb, ldb
    dma.bf16.bf16 2, dst, cbuf, bn

    xori cslot, cslot, 1
    addi jj, jj, BN
    j columns
next_rows:
    addi i, i, BM
    j rows
finish:
    halt
