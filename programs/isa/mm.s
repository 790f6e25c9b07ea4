# mm: C[m,n] = A[m,k] B[k,n] (`new`) or C += A B (`acc`), both operands as stored or transposed, sums in FP32.
.include "lib.inc"
.tensor MK, tsram, e4m3, [2, 3], payload, values(1, 2, 3, -4, 5, 0.5)
.tensor KM, tsram, e4m3, [3, 2], payload, values(1, -4, 2, 5, 3, 0.5)
.tensor KN, tsram, e4m3, [3, 4], payload, values(1, 0, 2, -1, 3, -2, 1, 0, 4, 8, -6, 1)
.tensor NK, tsram, e5m2, [4, 3], payload, values(1, 3, 4, 0, -2, 8, 2, 1, -6, -1, 0, 1)
.tensor OUT, tsram, f32, [4, 2, 4], payload
# mk.kn, km.nk, then the first again with the product added once and twice more
.expect OUT, values(19, 20, -14, 2, 13, -6, -6, 4.5, 19, 20, -14, 2, 13, -6, -6, 4.5, 38, 40, -28, 4, 26, -12, -12, 9, 57, 60, -42, 6, 39, -18, -18, 13.5)

# The rule of rounding. FP8: 32 products are summed exactly and rounded once, then added in FP32. 448 * 448 and its negative
# cancel, and the small product 2^-18 between them survives; in FP32 from left to right it would be lost.
.tensor EXACT_A, tsram, e4m3, [1, 3], payload, values(448, 0.001953125, 448)
.tensor EXACT_B, tsram, e4m3, [3, 1], payload, values(448, 0.001953125, -448)
.tensor EXACT, tsram, f32, [1], payload
.expect EXACT, values(3.814697265625e-06)
# A block of 32 holds 2^24 + 31/16, which rounds to 2^24 + 2. In blocks of 2^24 + 31/32, 1 and 1 every sum rounds to 2^24.
.tensor BIG_A, tsram, e5m2, [1, 96], payload, values(16384, 1)      # the last value repeats
.tensor BIG_B, tsram, e5m2, [96, 1], payload, values(1024, 0.0625)
.tensor BIG_C, tsram, e5m2, [96, 1], payload, values(1024, 0.03125)
.tensor BLOCK, tsram, f32, [2], payload
.expect BLOCK, values(16777218, 16777216)
# BF16: the same in blocks of 8.
.tensor BF_A, tsram, bf16, [1, 24], payload, values(16384, 1)
.tensor BF_B, tsram, bf16, [24, 1], payload, values(1024, 0.25)
.tensor BF_C, tsram, bf16, [24, 1], payload, values(1024, 0.125)
.tensor BF, tsram, f32, [2], payload
.expect BF, values(16777218, 16777216)
# FP4 and FP6 are packed, and each row starts at a whole byte: rows of three FP4 take 2 bytes, of three FP6 3 bytes (18 bits).
# [1 2 3; -4 6 0.5] and the columns [1 0.5 -6], [0 3 1.5] of B, stored nk: 1 + 1 - 18, 0 + 6 + 4.5, -4 + 3 - 3, 0 + 18 + 0.75.
.tensor FP4_A, tsram, u8, [4], payload, values(0x42, 0x05, 0x7e, 0x01)      # codes 2 4 5; 14 7 1
.tensor FP4_B, tsram, u8, [4], payload, values(0x12, 0x0f, 0x50, 0x03)      # codes 2 1 15; 0 5 3
# The same A in E2M3, codes 8 16 20; 56 28 4: 0x014408, 0x004738. The same B in E3M2, codes 12 8 54; 0 18 14: 0x03620c, 0x00e480.
.tensor FP6_A, tsram, u8, [6], payload, values(0x08, 0x44, 0x01, 0x38, 0x47, 0x00)
.tensor FP6_B, tsram, u8, [6], payload, values(0x0c, 0x62, 0x03, 0x80, 0xe4, 0x00)
# FP4 x FP4, FP6 x FP6, FP8 x FP4: 1 2 3 -4 5 0.5 as above gives -16, 10.5, -4.5, 15.75 in the last.
.tensor NARROW, tsram, f32, [3, 2, 2], payload
.expect NARROW, values(-16, 10.5, -4, 18.75, -16, 10.5, -4, 18.75, -16, 10.5, -4.5, 15.75)
# Past the 32 rows and columns of an accumulator block: a column of 33, a row of 34, and 33 x 34 in 2 x 2 blocks.
.tensor COUNT, tsram, bf16, [34], payload, iota
.tensor TWO, tsram, bf16, [34], payload, values(2)
.tensor COLUMN, tsram, f32, [33], payload
.expect COLUMN, iota
.tensor ROW, tsram, f32, [34], payload
.expect ROW, iota
.tensor BOTH, tsram, f32, [33, 34], payload
.expect BOTH, values(4)
.tensor ONE, tsram, bf16, [1], payload, values(1)

.reg acc, r1
.reg a,   r2
.reg b,   r3
.reg m,   r4
.reg n,   r5
.reg k,   r6
.reg lda, r7
.reg ldb, r8
.reg out, r9
.reg ldc, r10

.macro shape mm, nn, kk, la, lb
    li m, \mm
    li n, \nn
    li k, \kk
    li lda, \la
    li ldb, \lb
    li ldc, 4 * \nn
.endm
.macro operands aa, bb
    li a, \aa
    li b, \bb
.endm
.macro store cc
    li out, \cc
    mm.store.f32 acc, out, m, n, ldc
.endm

.tile
    only_tile_0
    li acc, 3                   # any block; the tensor unit's queue is in order
    shape 2, 4, 3, 3, 4
    operands MK, KN
    mm.new.e4m3.e4m3.mk.kn acc, a, b, m, n, k, lda, ldb
    store OUT
    shape 2, 4, 3, 2, 3
    operands KM, NK
    mm.new.e4m3.e5m2.km.nk acc, a, b, m, n, k, lda, ldb
    store OUT + 32
    shape 2, 4, 3, 3, 3
    operands MK, NK
    mm.acc.e4m3.e5m2.mk.nk acc, a, b, m, n, k, lda, ldb
    store OUT + 64
    shape 2, 4, 3, 2, 4
    operands KM, KN
    mm.acc.e4m3.e4m3.km.kn acc, a, b, m, n, k, lda, ldb
    store OUT + 96

    shape 1, 1, 3, 3, 1
    operands EXACT_A, EXACT_B
    mm.new.e4m3.e4m3.mk.kn acc, a, b, m, n, k, lda, ldb
    store EXACT
    shape 1, 1, 32, 96, 1
    operands BIG_A, BIG_B
    mm.new.e5m2.e5m2.mk.kn acc, a, b, m, n, k, lda, ldb
    store BLOCK
    shape 1, 1, 96, 96, 1
    operands BIG_A, BIG_C
    mm.new.e5m2.e5m2.mk.kn acc, a, b, m, n, k, lda, ldb
    store BLOCK + 4
    shape 1, 1, 8, 48, 2
    operands BF_A, BF_B
    mm.new.bf16.bf16.mk.kn acc, a, b, m, n, k, lda, ldb
    store BF
    shape 1, 1, 24, 48, 2
    operands BF_A, BF_C
    mm.new.bf16.bf16.mk.kn acc, a, b, m, n, k, lda, ldb
    store BF + 4
    shape 2, 2, 3, 2, 2
    operands FP4_A, FP4_B
    mm.new.e2m1.e2m1.mk.nk acc, a, b, m, n, k, lda, ldb
    store NARROW
    shape 2, 2, 3, 3, 3
    operands FP6_A, FP6_B
    mm.new.e2m3.e3m2.mk.nk acc, a, b, m, n, k, lda, ldb
    store NARROW + 16
    shape 2, 2, 3, 3, 2
    operands MK, FP4_B
    mm.new.e4m3.e2m1.mk.nk acc, a, b, m, n, k, lda, ldb
    store NARROW + 32
    shape 33, 1, 1, 2, 2
    operands COUNT, ONE
    mm.new.bf16.bf16.mk.kn acc, a, b, m, n, k, lda, ldb
    store COLUMN
    shape 1, 34, 1, 2, 68
    operands ONE, COUNT
    mm.new.bf16.bf16.mk.kn acc, a, b, m, n, k, lda, ldb
    store ROW
    shape 33, 34, 1, 2, 68
    operands TWO, TWO
    mm.new.bf16.bf16.mk.kn acc, a, b, m, n, k, lda, ldb
    store BOTH
    halt
