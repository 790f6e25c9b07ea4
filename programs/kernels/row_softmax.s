# row_softmax: Y[r, :] = exp(X[r, :] - max) / sum, FP32 in, BF16 out, on all tiles.
#
# What to learn here
#   - A strided `dma`: `dim` repeats a row transfer, with one stride at the source and another at the destination. Here rows
#     of COLS elements become rows padded to whole vectors.
#   - Lane reductions: `vredmax` and `vredsum` leave the result of a fixed tree in every lane, ready for the next step.
#   - No instruction does a softmax: it is max, exp2 (of x log2 e), sum, rcp and multiply.
#   - Conversion to BF16 in the kernel: 128 FP32 lanes fill half ("group 0") of a BF16 vector's 256 lanes.
#
# Tile t takes blocks t, t + tiles, ... of ROWS rows; the last block may be short. Loads and stores are double-buffered.

.equ M, 1000                    # rows
.equ COLS, 1000
.equ ROWS, 8                    # rows of a block
.equ VECTORS, (COLS + 127) / 128
.equ FULL_VECTORS, COLS / 128
.equ TAIL, COLS % 128           # elements of the last vector, 0 if all are full
.equ X_ROW, VECTORS * 512       # bytes of a padded row
.equ Y_ROW, VECTORS * 256

.tensor X, hbm, f32, [M, COLS], payload, normal(1)
.tensor Y, hbm, bf16, [M, COLS], payload
.tensor X_BUF, tsram, u8, [2, ROWS, X_ROW], payload
.tensor Y_BUF, tsram, u8, [2, ROWS, Y_ROW], payload

# Semaphores of slot 0 and 1
.equ X_FREE, 0
.equ X_FULL, 2
.equ Y_FREE, 4
.equ Y_FULL, 6

.reg me,   r1
.reg row,  r2                   # first row of the block
.reg step, r3
.reg end,  r4
.reg slot, r5
.reg x,    r6                   # in HBM
.reg y,    r7
.reg cols, r8
.reg xrow, r9
.reg yrow, r10
.reg hx,   r11                  # bytes of a row in HBM
.reg hy,   r12
.reg t,    r13
# Arguments of the kernel
.reg xbuf, r16
.reg ybuf, r17
.reg rows, r18                  # rows of this block

.tile
    rdsr me, tile
    muli row, me, ROWS
    rdsr step, tiles
    muli step, step, ROWS
    li end, M
    li slot, 0
    li cols, COLS
    li xrow, X_ROW
    li yrow, Y_ROW
    li hx, COLS * 4
    li hy, COLS * 2
.set s, 0
.rept 2
    sem.post me, X_FREE + s, 1
    sem.post me, Y_FREE + s, 1
.set s, s + 1
.endr

next:
    bge row, end, done
    sub rows, end, row
    li t, ROWS
    min rows, rows, t
    muli t, slot, ROWS * X_ROW
    li xbuf, X_BUF
    add xbuf, xbuf, t
    muli t, slot, ROWS * Y_ROW
    li ybuf, Y_BUF
    add ybuf, ybuf, t

    mul t, row, hx
    li x, X
    add x, x, t
    wait X_FREE(slot), 1
    signal X_FULL(slot), 1
    dim rows, xrow, hx          # `rows` times: xrow apart in TSRAM, hx apart in HBM
    dma.f32.f32 0, xbuf, x, cols

    wait X_FULL(slot), 1
    wait Y_FREE(slot), 1
    signal X_FREE(slot), 1
    signal Y_FULL(slot), 1
    vrun softmax, xbuf, 3

    mul t, row, hy
    li y, Y
    add y, y, t
    wait Y_FULL(slot), 1
    signal Y_FREE(slot), 1
    dim rows, hy, yrow
    dma.bf16.bf16 1, y, ybuf, cols

    add row, row, step
    xori slot, slot, 1
    j next
done:
    halt

# s1: X rows, s2: Y rows, s3: number of rows. Three passes over a row: maximum, exponentials (kept in place), scaling.
#
# Issue is in order: one row alone would wait for the latency of each step. So four rows go through each step together, and
# what is left of the block one by one; the same macros make both.
.reg in,      s4
.reg out,     s5
.reg n,       s6                # full vectors of a row
.reg fours,   s7
.reg ones,    s8
.reg log2e,   v28
.reg lowest,  v29
.reg e.0, v0                    # of row 0 to 3: the vector at hand, the maximum, the sum (later its reciprocal)
.reg e.1, v1
.reg e.2, v2
.reg e.3, v3
.reg largest.0, v4
.reg largest.1, v5
.reg largest.2, v6
.reg largest.3, v7
.reg sum.0, v8
.reg sum.1, v9
.reg sum.2, v10
.reg sum.3, v11

# \step for each row, on the lanes of predicate \p.
.macro four step, p
    \step 0, \p
    \step 1, \p
    \step 2, \p
    \step 3, \p
.endm
.macro one step, p
    \step 0, \p
.endm

.macro start r, p
    vmov largest.\r, lowest
    vxor sum.\r, sum.\r, sum.\r
.endm
.macro load r, p
    vld.f32 e.\r, \r * X_ROW(in) ?\p
.endm
.macro maximum r, p
    vmax.f32 largest.\r, largest.\r, e.\r ?\p     # lanes past the row keep what they had
.endm
.macro over_lanes r, p
    vredmax.f32 largest.\r, largest.\r    # now in every lane
.endm
.macro in_base_2 r, p
    vmul.f32 largest.\r, largest.\r, log2e
.endm
.macro to_base_2 r, p
    vmul.f32 e.\r, e.\r, log2e
.endm
.macro subtract r, p
    vsub.f32 e.\r, e.\r, largest.\r
.endm
.macro power r, p
    vexp2.f32 e.\r, e.\r
.endm
.macro add_up r, p
    vadd.f32 sum.\r, sum.\r, e.\r ?\p
.endm
.macro keep r, p
    vst.f32 e.\r, \r * X_ROW(in) ?\p
.endm
.macro total r, p
    vredsum.f32 sum.\r, sum.\r
.endm
.macro reciprocal r, p
    vrcp.f32 sum.\r, sum.\r
.endm
.macro scale r, p
    vmul.f32 e.\r, e.\r, sum.\r
.endm
.macro round r, p
    vcvt.bf16.f32 e.\r, e.\r, 0, 0
.endm
.macro store r, p
    vst.bf16 e.\r, \r * Y_ROW(out) ?\p
.endm

# The steps on one vector of each row.
.macro maximum_step rows, p
    \rows load, \p
    \rows maximum, \p
.endm
.macro power_step rows, p
    \rows load, \p
    \rows to_base_2, \p
    \rows subtract, \p
    \rows power, \p
    \rows add_up, \p
    \rows keep, \p
.endm
.macro scale_step rows, p, wide
    \rows load, \p
    \rows scale, \p
    \rows round, \p
    \rows store, \wide
.endm

# Softmax of as many rows as \rows (`one` or `four`) stands for.
.macro softmax_of rows
    \rows start, p0
    saddi in, s1, 0
    loop n, max_\@
    maximum_step \rows, p0
    saddi in, in, 512
max_\@:
.if TAIL
    maximum_step \rows, p1
.endif
    \rows over_lanes, p0
    \rows in_base_2, p0

    saddi in, s1, 0
    loop n, power_\@
    power_step \rows, p0
    saddi in, in, 512
power_\@:
.if TAIL
    power_step \rows, p1
.endif
    \rows total, p0
    \rows reciprocal, p0

    saddi in, s1, 0
    saddi out, s2, 0
    loop n, scale_\@
    scale_step \rows, p0, p3
    saddi in, in, 512
    saddi out, out, 256
scale_\@:
.if TAIL
    scale_step \rows, p1, p2
.endif
.endm

.kernel softmax
    sli s9, float(1.4426950408889634)
    vbc.f32 log2e, s9
    sli s9, 0xff800000          # -infinity
    vbc.f32 lowest, s9
    sli s9, TAIL
    vwhile.f32 p1, s9           # the lanes of the last vector, as FP32 and as BF16
    vwhile.bf16 p2, s9
    sli s9, 128
    vwhile.bf16 p3, s9          # one group of a BF16 vector
    sli n, FULL_VECTORS
    sshri fours, s3, 2
    smuli ones, fours, -4
    sadd ones, s3, ones

    loop fours, rest
    softmax_of four
    saddi s1, s1, 4 * X_ROW
    saddi s2, s2, 4 * Y_ROW
rest:
    loop ones, finished
    softmax_of one
    saddi s1, s1, X_ROW
    saddi s2, s2, Y_ROW
finished:
    vret
