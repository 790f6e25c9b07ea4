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
# p1 and p2 are the lanes of the last vector, as FP32 and as BF16.
.reg in,      s4
.reg out,     s5
.reg n,       s6
.reg largest, v1
.reg sum,     v2
.reg log2e,   v3
.reg lowest,  v4
.reg e,       v5
.reg scale,   v6

.kernel softmax
    sli s7, float(1.4426950408889634)
    vbc.f32 log2e, s7
    sli s7, 0xff800000          # -infinity
    vbc.f32 lowest, s7
    sli s7, TAIL
    vwhile.f32 p1, s7
    vwhile.bf16 p2, s7
    sli s7, 128
    vwhile.bf16 p3, s7          # one group of a BF16 vector
    loop s3, finished

    vmov largest, lowest
    saddi in, s1, 0
    sli n, FULL_VECTORS
    loop n, max_done
    vld.f32 e, 0(in)
    vmax.f32 largest, largest, e
    saddi in, in, 512
max_done:
.if TAIL
    vld.f32 e, 0(in) ?p1
    vmax.f32 largest, largest, e ?p1    # lanes past the row keep what they had
.endif
    vredmax.f32 largest, largest        # now in every lane
    vmul.f32 largest, largest, log2e

    vxor sum, sum, sum
    saddi in, s1, 0
    loop n, exp_done
    vld.f32 e, 0(in)
    vmul.f32 e, e, log2e
    vsub.f32 e, e, largest
    vexp2.f32 e, e
    vadd.f32 sum, sum, e
    vst.f32 e, 0(in)
    saddi in, in, 512
exp_done:
.if TAIL
    vld.f32 e, 0(in) ?p1
    vmul.f32 e, e, log2e
    vsub.f32 e, e, largest
    vexp2.f32 e, e
    vadd.f32 sum, sum, e ?p1
    vst.f32 e, 0(in) ?p1
.endif
    vredsum.f32 sum, sum
    vrcp.f32 scale, sum

    saddi in, s1, 0
    saddi out, s2, 0
    loop n, scale_done
    vld.f32 e, 0(in)
    vmul.f32 e, e, scale
    vcvt.bf16.f32 e, e, 0, 0
    vst.bf16 e, 0(out) ?p3
    saddi in, in, 512
    saddi out, out, 256
scale_done:
.if TAIL
    vld.f32 e, 0(in) ?p1
    vmul.f32 e, e, scale
    vcvt.bf16.f32 e, e, 0, 0
    vst.bf16 e, 0(out) ?p2
.endif
    saddi s1, s1, X_ROW
    saddi s2, s2, Y_ROW
finished:
    vret
