# flash_attention: O = softmax(Q K^T / sqrt(D)) V for every head, FP8 E4M3 in, BF16 out, causal or not, on all tiles.
#
# What to learn here
#   - FlashAttention: the matrix of scores never leaves a tile. It is made in blocks of BK keys x BQ queries; a running
#     maximum and a running sum per query correct what was added before ("online softmax").
#   - Tensor unit and vector processor overlap: while the vector processor turns the scores of block j into
#     probabilities, the tensor unit multiplies the probabilities of block j - 1 with V and makes the scores of block j + 1.
#     Only semaphores order them; there is no barrier.
#   - The transposed form. S^T = K Q^T has queries along the lanes, so maximum and sum over keys are lane by lane over rows:
#     no lane reduction anywhere. O^T = V^T P^T needs no transposition either, for `mm` reads V as stored with order `km`.
#     Only the result is turned, by the DMA that writes it (`dma.t`).
#   - Data never steers control: the mask of the causal edge is made from lane numbers, and whether a block needs it is known
#     from its position.
#
# Q[1, SQ, HEADS, D], K and V[1, SKV, KVHEADS, D], O like Q; query head h uses key head h / (HEADS / KVHEADS). Causal: query i
# sees keys 0 .. SKV - SQ + i; one that sees none gets zeros. An item of work is BQ queries of a head; tile t takes items t,
# t + tiles, ... of a list that begins with the longest ones.
#
# Numbers: scores and softmax are FP32. P is scaled by 2^8 before it is rounded to E4M3 (largest 448), to use its range; the
# sum is scaled alike, so the factor cancels. Per query, with c = log2(e) / sqrt(D), for block j:
#     m' = max(m, c * max S)      p = exp2(c * S - m' + 8)      a = exp2(m - m')      l' = a l + sum p      O' = a O + p V
# Larger BK spends less on rescaling O, where TSRAM is larger than on the smallest preset.

.equ SQ, 384
.equ SKV, 384
.equ HEADS, 12
.equ KVHEADS, 6
.equ D, 128                     # a multiple of 32, at most 128
.equ CAUSAL, 1
.equ BQ, 128                    # queries of an item: the lanes of the vector processor
.equ BK, 64                     # keys of a block
.equ C_BITS, float(0.12751743)  # log2(e) / sqrt(D)

.equ GROUP, HEADS / KVHEADS
.equ QBLOCKS, (SQ + BQ - 1) / BQ
.equ ITEMS, QBLOCKS * HEADS
.equ OFFSET, SKV - SQ           # query i sees keys 0 .. i + OFFSET

.tensor Q, hbm, e4m3, [1, SQ, HEADS, D], payload, normal(1)
.tensor K, hbm, e4m3, [1, SKV, KVHEADS, D], payload, normal(2)
.tensor V, hbm, e4m3, [1, SKV, KVHEADS, D], payload, normal(3)
.tensor O, hbm, bf16, [1, SQ, HEADS, D], payload

.tensor Q_BUF, tsram, e4m3, [2, BQ, D], payload
.tensor K_BUF, tsram, e4m3, [2, BK, D], payload
.tensor V_BUF, tsram, e4m3, [2, BK, D], payload
.tensor S_BUF, tsram, f32, [2, BK, BQ], payload         # S^T
.tensor P_BUF, tsram, e4m3, [2, BK, BQ], payload        # P^T
.tensor O_ACC, tsram, f32, [D, BQ], payload             # O^T, unscaled
.tensor O_OUT, tsram, bf16, [D, BQ], payload            # O^T, final
.tensor STATE, tsram, f32, [3, BQ], payload             # rows: m, l, a

# Accumulator blocks: S^T of slot 0 and slot 1, then O^T
.equ S_ACC, 0
.equ S_BLOCKS, (BK + 31) / 32 * (BQ / 32)
.equ O_BLOCK, 2 * S_BLOCKS

# Semaphores; those of two slots take two numbers
.equ Q_FREE, 0
.equ Q_FULL, 2
.equ K_FREE, 4
.equ K_FULL, 6
.equ V_FREE, 8
.equ V_FULL, 10
.equ S_FREE, 12
.equ S_FULL, 14
.equ P_FREE, 16
.equ P_FULL, 18
.equ O_ADDED, 20                # O_ACC holds the sum up to the last block multiplied
.equ O_SCALED, 21               # O_ACC is rescaled for the next block
.equ OUT_FREE, 22
.equ OUT_FULL, 23

.reg me,    r1
.reg item,  r2
.reg tiles, r3
.reg q0,    r4                  # first query of the item
.reg bq,    r5                  # queries of the item
.reg j,     r6                  # first key of the block to multiply; the scores are made one block ahead
.reg next,  r7                  # first key of the block whose scores are made
.reg keys,  r8                  # keys that the item sees
.reg slot,  r9                  # of K, V, S and P for block j
.reg ahead, r10                 # slot of block `next`
.reg qslot, r11
.reg t,     r12
.reg src,   r13
.reg dst,   r14
.reg bk,    r15
.reg head,  r16
.reg qrow,  r17                 # bytes between the rows of a head in HBM: of Q, of K and V, of O
.reg kvrow, r18
.reg orow,  r19
.reg d,     r20
.reg ldf,   r21                 # bytes of a row of 128 FP32
.reg kvoff, r22                 # bytes from the start of K or V to the rows of this head
.reg acc,   r23
.reg qbuf,  r24
.reg ldp,   r25                 # bytes of a row of 128 FP8
# Arguments of the kernels
.reg a1,    r26
.reg a2,    r27
.reg a3,    r28
.reg a4,    r29
.reg a5,    r30
.reg lim,   r31

# \r = \base + \index * \bytes
.macro slot_address r, base, index, bytes
    muli \r, \index, \bytes
    li t, \base
    add \r, \r, t
.endm

# Loads K and V of the block that begins at key `next` into slot `ahead`; bk = its keys.
.macro load_kv
    li t, SKV
    sub bk, t, next
    li t, BK
    min bk, bk, t
    mul src, next, kvrow
    add src, src, kvoff
    addi src, src, K
    slot_address dst, K_BUF, ahead, BK * D
    wait K_FREE(ahead), 1
    signal K_FULL(ahead), 1
    dim bk, d, kvrow
    dma.e4m3.e4m3 1, dst, src, d

    addi src, src, V - K
    slot_address dst, V_BUF, ahead, BK * D
    wait V_FREE(ahead), 1
    signal V_FULL(ahead), 1
    dim bk, d, kvrow
    dma.e4m3.e4m3 2, dst, src, d
.endm

# S^T = K Q^T for the block in slot `ahead`. A clause that is staged before the macro joins the `mm`.
.macro scores
    addi t, next, BK
    blt t, keys, 1f
    signal Q_FREE(qslot), 1     # the item's last use of its queries
1:
    slot_address src, K_BUF, ahead, BK * D
    slot_address dst, S_BUF, ahead, BK * BQ * 4
    muli acc, ahead, S_BLOCKS
    wait K_FULL(ahead), 1
    signal K_FREE(ahead), 1
    mm.new.e4m3.e4m3.mk.nk acc, src, qbuf, bk, bq, d, d, d
    wait S_FREE(ahead), 1
    signal S_FULL(ahead), 1
    mm.store.f32 acc, dst, bk, bq, ldf
.endm

.tile
    rdsr me, tile
    mv item, me
    rdsr tiles, tiles
    li slot, 0
    li qslot, 0
    li qrow, HEADS * D
    li kvrow, KVHEADS * D
    li orow, HEADS * D * 2
    li d, D
    li ldf, BQ * 4
    li ldp, BQ
    sem.post me, OUT_FREE, 1
.set s, 0
.rept 2
    sem.post me, Q_FREE + s, 1
    sem.post me, K_FREE + s, 1
    sem.post me, V_FREE + s, 1
    sem.post me, S_FREE + s, 1
    sem.post me, P_FREE + s, 1
.set s, s + 1
.endr

next_item:
    li t, ITEMS
    bge item, t, finish
    # Item n: the last block of queries, which sees most keys, of all heads first.
    li t, HEADS
    divu q0, item, t
    remu head, item, t
    li t, QBLOCKS - 1
    sub q0, t, q0
    muli q0, q0, BQ
    li t, SQ
    sub bq, t, q0
    li t, BQ
    min bq, bq, t
    li t, GROUP
    divu kvoff, head, t
    muli kvoff, kvoff, D
    li keys, SKV
.if CAUSAL
    add t, q0, bq               # keys of the last query; at least one block, to get its zeros by the same way
    addi t, t, OFFSET
    min keys, keys, t
    li t, 1
    max keys, keys, t
.endif

    mul src, q0, qrow
    muli t, head, D
    add src, src, t
    addi src, src, Q
    slot_address qbuf, Q_BUF, qslot, BQ * D
    wait Q_FREE(qslot), 1
    signal Q_FULL(qslot), 1
    dim bq, d, qrow
    dma.e4m3.e4m3 0, qbuf, src, d

    # The first block's scores; the queries must be here.
    li j, 0
    li next, 0
    mv ahead, slot
    load_kv
    wait Q_FULL(qslot), 1
    scores
    vrun begin, a1, 0

block:
    # Scores of the next block, while the vector processor works on this one's.
    addi next, j, BK
    xori ahead, slot, 1
    bge next, keys, no_next
    load_kv
    scores
no_next:

    # Probabilities of this block. Its keys, for `bk` may be the next one's:
    li t, SKV
    sub bk, t, j
    li t, BK
    min bk, bk, t
    slot_address a1, S_BUF, slot, BK * BQ * 4
    slot_address a2, P_BUF, slot, BK * BQ
    mv a3, bk
    mv a4, bq
    wait S_FULL(slot), 1
    wait P_FREE(slot), 1
    signal S_FREE(slot), 1
    signal P_FULL(slot), 1
.if CAUSAL
    # Row r of the block is seen by lanes from j + r - q0 - OFFSET on. If that is lane 0 even for the last row, by all.
    sub a5, j, q0
    addi a5, a5, -OFFSET
    add t, a5, bk
    li lim, 1
    blt lim, t, on_the_edge
.endif
    vrun softmax, a1, 4
    j softmax_pushed
.if CAUSAL
on_the_edge:
    vrun softmax_masked, a1, 5
.endif
softmax_pushed:

    # O^T = a O^T + V^T P^T. The first block starts the sum; the others take it up again from TSRAM, rescaled.
    slot_address src, V_BUF, slot, BK * D
    slot_address dst, P_BUF, slot, BK * BQ
    li acc, O_BLOCK
    li a1, O_ACC
    bnez j, add_up
    wait P_FULL(slot), 1
    wait V_FULL(slot), 1
    signal P_FREE(slot), 1
    signal V_FREE(slot), 1
    mm.new.e4m3.e4m3.km.kn acc, src, dst, d, bq, bk, d, ldp
    j added
add_up:
    mv a2, bq
    wait O_ADDED, 1
    signal O_SCALED, 1
    vrun rescale, a1, 2
    wait O_SCALED, 1
    mm.load acc, a1, d, bq, ldf
    wait P_FULL(slot), 1
    wait V_FULL(slot), 1
    signal P_FREE(slot), 1
    signal V_FREE(slot), 1
    mm.acc.e4m3.e4m3.km.kn acc, src, dst, d, bq, bk, d, ldp
added:
    signal O_ADDED, 1
    mm.store.f32 acc, a1, d, bq, ldf

    xori slot, slot, 1
    addi j, j, BK
    blt j, keys, block

    # Divide by the sum, round, and write out transposed: D x bq becomes bq x D.
    li a1, O_ACC
    li a2, O_OUT
    mv a3, bq
    wait O_ADDED, 1
    wait OUT_FREE, 1
    signal OUT_FULL, 1
    vrun finish_item, a1, 3

    mul dst, q0, orow
    muli t, head, D * 2
    add dst, dst, t
    li t, O
    add dst, dst, t
    li a2, O_OUT
    li t, BQ * 2
    wait OUT_FULL, 1
    signal OUT_FREE, 1
    dma.t.bf16.bf16 3, dst, a2, d, bq, orow, t

    xori qslot, qslot, 1
    add item, item, tiles
    j next_item
finish:
    halt

# ---- vector kernels --------------------------------------------------------------------------------------------------
# Rows of 128 FP32: queries along the lanes. p1: lanes that are queries of the item; p2: the first 128 lanes of an 8- or
# 16-bit vector, which has 256. Issue is in order, so eight rows go through each step together: latencies overlap.

.equ NEGATIVE_INFINITY, 0xff800000

.macro eight each
    \each 0
    \each 1
    \each 2
    \each 3
    \each 4
    \each 5
    \each 6
    \each 7
.endm

# m = a very low number, l = 0.
.kernel begin
    sli s1, STATE
    sli s2, float(-1e30)
    vbc.f32 v1, s2
    vst.f32 v1, 0(s1)
    vxor v1, v1, v1
    vst.f32 v1, 512(s1)
    vret

# s1: S^T, s2: P^T, s3: keys (rows), s4: queries, s5 if masked: first lane that sees row 0 (may be negative; one more a row)
.reg row,    s8
.reg out,    s9
.reg seen,   s10
.reg eights, s6
.reg ones,   s7
.reg minus_inf, v30
.reg c,      v29
.reg bias,   v28                # 8 - m'
.reg m,      v27                # m, then m'
.reg a,      v26
.reg l,      v25

.macro load_row i
    vld.f32 v\i, \i * 512(row) ?p1
.endm
.macro hide_row i
    vwhile.f32 p3, seen
    vsel.f32 v\i, p3, minus_inf, v\i
    saddi seen, seen, 1
.endm
.macro scale_row i
    vfma.f32 v\i, v\i, c, bias
.endm
.macro exp_row i
    vexp2.f32 v\i, v\i
.endm
.macro round_row i
    vcvt.e4m3.f32 v\i, v\i, 0, 0
.endm
.macro store_row i
    vst.e4m3 v\i, \i * 128(out) ?p2
.endm

.macro softmax_body masked
    vwhile.f32 p1, s4
    sli s11, 128
    vwhile.bf16 p2, s11
    sli s11, NEGATIVE_INFINITY
    vbc.f32 minus_inf, s11
    sli s11, C_BITS
    vbc.f32 c, s11
    sshri eights, s3, 3
    smuli ones, eights, -8
    sadd ones, s3, ones         # rows past the last eight

    # Maximum, in four chains.
    vmov v16, minus_inf
    vmov v17, minus_inf
    vmov v18, minus_inf
    vmov v19, minus_inf
    saddi row, s1, 0
    saddi seen, s5, 0
    loop eights, max_rest
    eight load_row
.if \masked
    eight hide_row
.endif
    vmax.f32 v16, v16, v0
    vmax.f32 v17, v17, v1
    vmax.f32 v18, v18, v2
    vmax.f32 v19, v19, v3
    vmax.f32 v16, v16, v4
    vmax.f32 v17, v17, v5
    vmax.f32 v18, v18, v6
    vmax.f32 v19, v19, v7
    saddi row, row, 8 * 512
max_rest:
    loop ones, max_done
    load_row 0
.if \masked
    hide_row 0
.endif
    vmax.f32 v16, v16, v0
    saddi row, row, 512
max_done:
    vmax.f32 v16, v16, v17
    vmax.f32 v18, v18, v19
    vmax.f32 v16, v16, v18
    vmul.f32 v16, v16, c

    sli s12, STATE
    vld.f32 m, 0(s12)
    vmax.f32 v16, m, v16        # m'
    vsub.f32 a, m, v16
    vexp2.f32 a, a
    vst.f32 v16, 0(s12)
    vst.f32 a, 1024(s12)
    sli s11, float(8)
    vbc.f32 bias, s11
    vsub.f32 bias, bias, v16

    # Probabilities and their sum, in four chains.
    vxor v16, v16, v16
    vmov v17, v16
    vmov v18, v16
    vmov v19, v16
    saddi row, s1, 0
    saddi out, s2, 0
    saddi seen, s5, 0
    loop eights, exp_rest
    eight load_row
.if \masked
    eight hide_row
.endif
    eight scale_row
    eight exp_row
    vadd.f32 v16, v16, v0
    vadd.f32 v17, v17, v1
    vadd.f32 v18, v18, v2
    vadd.f32 v19, v19, v3
    vadd.f32 v16, v16, v4
    vadd.f32 v17, v17, v5
    vadd.f32 v18, v18, v6
    vadd.f32 v19, v19, v7
    eight round_row
    eight store_row
    saddi row, row, 8 * 512
    saddi out, out, 8 * 128
exp_rest:
    loop ones, exp_done
    load_row 0
.if \masked
    hide_row 0
.endif
    scale_row 0
    exp_row 0
    vadd.f32 v16, v16, v0
    round_row 0
    store_row 0
    saddi row, row, 512
    saddi out, out, 128
exp_done:
    vadd.f32 v16, v16, v17
    vadd.f32 v18, v18, v19
    vadd.f32 v16, v16, v18
    vld.f32 l, 512(s12)
    vfma.f32 l, l, a, v16
    vst.f32 l, 512(s12)
    vret
.endm

.kernel softmax
    softmax_body 0

.kernel softmax_masked
    softmax_body 1

# O = a O. s1: O^T, s2: queries
.macro rescale_row i
    vmul.f32 v\i, v\i, a
.endm
.macro put_row i
    vst.f32 v\i, \i * 512(row)
.endm

.kernel rescale
    vwhile.f32 p1, s2
    sli s3, STATE
    vld.f32 a, 1024(s3)
    saddi row, s1, 0
    sli s4, D / 8
    loop s4, end
    eight load_row
    eight rescale_row
    eight put_row
    saddi row, row, 8 * 512
end:
    vret

# O = O / l as BF16; 0 where l is 0, for a query that saw no key. s1: O^T, s2: result, s3: queries
.macro bf16_row i
    vcvt.bf16.f32 v\i, v\i, 0, 0
.endm
.macro put_bf16_row i
    vst.bf16 v\i, \i * 256(out) ?p2
.endm

.kernel finish_item
    vwhile.f32 p1, s3
    sli s4, 128
    vwhile.bf16 p2, s4
    sli s4, STATE
    vld.f32 l, 512(s4)
    sli s4, float(1e-30)        # keeps 0 / 0 away; a seen key adds at least its own 2^8 times 1
    vbc.f32 a, s4
    vmax.f32 l, l, a
    vrcp.f32 a, l
    saddi row, s1, 0
    saddi out, s2, 0
    sli s5, D / 8
    loop s5, end
    eight load_row
    eight rescale_row
    eight bf16_row
    eight put_bf16_row
    saddi row, row, 8 * 512
    saddi out, out, 8 * 256
end:
    vret
