# mm.scale: block scales of the next mm's operands. A block's sum is scaled exactly, then rounded once.
.include "lib.inc"
# Rows of 40 FP4: a whole block of 32 and 8 more. A = 1 and 2 throughout, B = 1 and 0.5.
.tensor A, tsram, e2m1, [2, 40], payload, values(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2)
.tensor B, tsram, e2m1, [2, 40], payload, values(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0.5)
# E8M0: 127 is 1. Block 0 of the rows of A: 1, 2; block 1: 0.5, 4. Of the columns of B, 3 bytes between blocks: 8, 1; 1, 2^-7.
.tensor SA, tsram, u8, [4], payload, values(127, 128, 126, 129)
.tensor SB, tsram, u8, [5], payload, values(130, 127, 0, 127, 120)
# Sums of block 0: 32, 16, 64, 32; of block 1: 8, 4, 16, 8. Then
#   32 * 1 * 8 + 8 * 0.5 * 1, 16 * 1 * 1 + 4 * 0.5 / 128, 64 * 2 * 8 + 16 * 4 * 1, 32 * 2 * 1 + 8 * 4 / 128,
# with scales of A alone 32 + 4, 16 + 2, 128 + 64, 64 + 32, and of B alone 256 + 8, 16 + 4 / 128, 512 + 16, 32 + 8 / 128.
# The clause is for one mm: without it 40, 20, 80, 40.
.tensor MX, tsram, f32, [4, 4], payload
.expect MX, values(260, 16.015625, 1088, 64.25, 36, 18, 192, 96, 264, 16.03125, 528, 32.0625, 40, 20, 80, 40)

# NVFP4: UE4M3 scales of 16 elements, three of them: 1, 2, 0.5 of A and 1.5, 1, 448 of B. A and B are 1:
# 16 * 1.5 + 16 * 2 = 56, then 16 * 0.5 * 448 = 3584. With an E8M0 scale of 0.5 and 2 for B instead: 0.5 * 48 + 2 * 8 = 40.
.tensor ONE, tsram, e2m1, [48], payload, values(1)
.tensor NA, tsram, u8, [3], payload, values(0x38, 0x40, 0x30)
.tensor NB, tsram, u8, [3], payload, values(0x3c, 0x38, 0x7e)
.tensor HALF, tsram, u8, [2], payload, values(126, 128)
.tensor NV, tsram, f32, [2], payload
.expect NV, values(3640, 40)

# One rounding, after scaling: 2^24 + 5 times 2^-152 lies between steps of 2^-149, that is 8 units, and goes up to (2^21 + 1) steps.
# Rounded before, to 2^24 + 4, it would be a tie and go down. A NaN scale: NaN, whatever the elements.
.tensor EA, tsram, e5m2, [2], payload, values(4096, 5)
.tensor EB, tsram, e5m2, [2], payload, values(4096, 1)
.tensor LOW, tsram, u8, [1], payload, values(0)
.tensor LESS, tsram, u8, [1], payload, values(102)
.tensor BAD, tsram, u8, [1], payload, values(255)
.tensor BITS, tsram, i32, [2], payload
.expect BITS, values(2097153, 0x7fc00000)

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
.reg sa,  r11
.reg sb,  r12
.reg la,  r13
.reg lb,  r14

.macro shape mm, nn, kk, ll
    li m, \mm
    li n, \nn
    li k, \kk
    li lda, \ll
    li ldb, \ll
    li ldc, 4 * \nn
.endm
.macro operands aa, bb
    li a, \aa
    li b, \bb
.endm
.macro scales aa, bb
    li sa, \aa
    li sb, \bb
.endm
.macro store cc
    li out, \cc
    mm.store.f32 acc, out, m, n, ldc
.endm

.tile
    only_tile_0
    li acc, 2
    shape 2, 2, 40, 20
    operands A, B
    scales SA, SB
    li la, 2
    li lb, 3
    mm.scale.e8m0.e8m0 sa, la, sb, lb
    mm.new.e2m1.e2m1.mk.nk acc, a, b, m, n, k, lda, ldb
    store MX
    mm.scale.e8m0.none sa, la, r0, r0
    mm.new.e2m1.e2m1.mk.nk acc, a, b, m, n, k, lda, ldb
    store MX + 16
    mm.scale.e8m0.e8m0 sa, la, sa, la       # staged again: the next line replaces it
    mm.scale.none.e8m0 r0, r0, sb, lb
    mm.new.e2m1.e2m1.mk.nk acc, a, b, m, n, k, lda, ldb
    store MX + 32
    mm.new.e2m1.e2m1.mk.nk acc, a, b, m, n, k, lda, ldb
    store MX + 48

    shape 1, 1, 48, 24
    operands ONE, ONE
    scales NA, NB
    li la, 1
    mm.scale.ue4m3.ue4m3 sa, la, sb, la
    mm.new.e2m1.e2m1.mk.nk acc, a, b, m, n, k, lda, ldb
    store NV
    # The scales of A: 1, 2 under block 0 of B, 0.5 under block 1: 0.5 * (16 + 32) + 2 * 8.
    scales NA, HALF
    mm.scale.ue4m3.e8m0 sa, la, sb, la
    mm.new.e2m1.e2m1.mk.nk acc, a, b, m, n, k, lda, ldb
    store NV + 4

    shape 1, 1, 2, 2
    operands EA, EB
    scales LOW, LESS
    mm.scale.e8m0.e8m0 sa, la, sb, la
    mm.new.e5m2.e5m2.mk.nk acc, a, b, m, n, k, lda, ldb
    store BITS
    scales LOW, BAD
    mm.scale.none.e8m0 r0, r0, sb, la
    mm.new.e5m2.e5m2.mk.nk acc, a, b, m, n, k, lda, ldb
    store BITS + 4
    halt
