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
# 16-bit vector, which has 256.
#
# Issue is in order, so the order of instructions is the schedule. Sixteen rows are in flight, in two banks of eight registers:
# while one bank is in a slow step, the other is stored, refilled and prepared. An exponential takes the special-function slot
# for two cycles; in the sixteen cycles of eight of them, all else that eight rows need finds its slots.

.equ NEGATIVE_INFINITY, 0xff800000

.reg even.0, v0
.reg even.1, v1
.reg even.2, v2
.reg even.3, v3
.reg even.4, v4
.reg even.5, v5
.reg even.6, v6
.reg even.7, v7
.reg odd.0, v8
.reg odd.1, v9
.reg odd.2, v10
.reg odd.3, v11
.reg odd.4, v12
.reg odd.5, v13
.reg odd.6, v14
.reg odd.7, v15

# \step once for each register of a bank; `at` is the bank's first row after the row pointer.
.macro eight step, bank, at
    \step \bank.0, \at + 0
    \step \bank.1, \at + 1
    \step \bank.2, \at + 2
    \step \bank.3, \at + 3
    \step \bank.4, \at + 4
    \step \bank.5, \at + 5
    \step \bank.6, \at + 6
    \step \bank.7, \at + 7
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
.reg rounds, s6                 # of sixteen rows
.reg some,   s11                # 1 if there is a round, else 0: `loop some` is an `if`
.reg ones,   s7                 # rows past the last round
.reg minus_inf, v30
.reg c,      v29
.reg bias,   v28                # 8 - m'
.reg m,      v27                # m, then m'
.reg a,      v26
.reg l,      v25

.macro load v, at
    vld.f32 \v, 512 * (\at)(row) ?p1
.endm
.macro hide v                    # the next row: its lanes below `seen` do not see it
    vwhile.f32 p3, seen
    vsel.f32 \v, p3, minus_inf, \v
    saddi seen, seen, 1
.endm
.macro hide_four v, w, x, y
    vwhile.f32 p3, seen
    saddi seen, seen, 1
    vwhile.f32 p4, seen
    saddi seen, seen, 1
    vwhile.f32 p5, seen
    saddi seen, seen, 1
    vwhile.f32 p6, seen
    saddi seen, seen, 1
    vsel.f32 \v, p3, minus_inf, \v
    vsel.f32 \w, p4, minus_inf, \w
    vsel.f32 \x, p5, minus_inf, \x
    vsel.f32 \y, p6, minus_inf, \y
.endm
.macro hide_bank bank
    hide_four \bank.0, \bank.1, \bank.2, \bank.3
    hide_four \bank.4, \bank.5, \bank.6, \bank.7
.endm
.macro scale v, at
    vfma.f32 \v, \v, c, bias
.endm
.macro power v, at
    vexp2.f32 \v, \v
.endm
.macro round v, at
    vcvt.e4m3.f32 \v, \v, 0, 0
.endm
.macro store v, at
    vst.e4m3 \v, 128 * (\at)(out) ?p2
.endm

# Maximum of a bank, in four chains.
.macro maximum bank
    vmax.f32 v16, v16, \bank.0
    vmax.f32 v17, v17, \bank.1
    vmax.f32 v18, v18, \bank.2
    vmax.f32 v19, v19, \bank.3
    vmax.f32 v16, v16, \bank.4
    vmax.f32 v17, v17, \bank.5
    vmax.f32 v18, v18, \bank.6
    vmax.f32 v19, v19, \bank.7
.endm
# The same, one load of the other bank beside each.
.macro load_one_take_one next, at, bank, i, chain
    load \next.\i, \at + \i
    vmax.f32 \chain, \chain, \bank.\i
.endm
.macro load_and_maximum next, at, bank, masked
    load_one_take_one \next, \at, \bank, 0, v16
    load_one_take_one \next, \at, \bank, 1, v17
    load_one_take_one \next, \at, \bank, 2, v18
    load_one_take_one \next, \at, \bank, 3, v19
    load_one_take_one \next, \at, \bank, 4, v16
    load_one_take_one \next, \at, \bank, 5, v17
    load_one_take_one \next, \at, \bank, 6, v18
    load_one_take_one \next, \at, \bank, 7, v19
.if \masked
    hide_bank \next
.endif
.endm

# Powers of bank \busy; meanwhile the powers in \ready are summed, rounded and stored at row \to, and, if \more, the bank is
# loaded again from row \from.
.macro powers busy, ready, to, from, more, masked
    power \busy.0, 0
    vadd.f32 v16, v16, \ready.0
    vadd.f32 v17, v17, \ready.1
    round \ready.0, 0
    round \ready.1, 0
    vadd.f32 v18, v18, \ready.2
    round \ready.2, 0
    power \busy.1, 0
    vadd.f32 v19, v19, \ready.3
    round \ready.3, 0
    vadd.f32 v16, v16, \ready.4
    round \ready.4, 0
    vadd.f32 v17, v17, \ready.5
    round \ready.5, 0
    power \busy.2, 0
    store \ready.0, \to + 0
    vadd.f32 v18, v18, \ready.6
    round \ready.6, 0
    store \ready.1, \to + 1
    power \busy.3, 0
    store \ready.2, \to + 2
    vadd.f32 v19, v19, \ready.7
    round \ready.7, 0
    store \ready.3, \to + 3
    power \busy.4, 0
    store \ready.4, \to + 4
    store \ready.5, \to + 5
    power \busy.5, 0
    store \ready.6, \to + 6
    store \ready.7, \to + 7
    power \busy.6, 0
.if \more
    eight load, \ready, \from
.if \masked
    hide_bank \ready
.endif
    power \busy.7, 0
    eight scale, \ready, 0
.else
    power \busy.7, 0
.endif
.endm

.macro softmax_body masked
    vwhile.f32 p1, s4
    sli s13, 128
    vwhile.bf16 p2, s13
    sli s13, NEGATIVE_INFINITY
    vbc.f32 minus_inf, s13
    sli s13, C_BITS
    vbc.f32 c, s13
    sshri rounds, s3, 4
    smuli ones, rounds, -16
    sadd ones, s3, ones
    sli some, 1
    smin some, some, rounds
    saddi rounds, rounds, -1

    vmov v16, minus_inf
    vmov v17, minus_inf
    vmov v18, minus_inf
    vmov v19, minus_inf
    saddi row, s1, 0
    saddi seen, s5, 0
    loop some, max_rest
    eight load, even, 0
.if \masked
    hide_bank even
.endif
    loop rounds, max_last
    load_and_maximum odd, 8, even, \masked
    load_and_maximum even, 16, odd, \masked
    saddi row, row, 16 * 512
max_last:
    load_and_maximum odd, 8, even, \masked
    maximum odd
    saddi row, row, 16 * 512
max_rest:
    loop ones, max_done
    load v0, 0
.if \masked
    hide v0
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
    sli s13, float(8)
    vbc.f32 bias, s13
    vsub.f32 bias, bias, v16

    # Probabilities and their sum, in four chains.
    vxor v16, v16, v16
    vmov v17, v16
    vmov v18, v16
    vmov v19, v16
    saddi row, s1, 0
    saddi out, s2, 0
    saddi seen, s5, 0
    loop some, power_rest
    eight load, even, 0
.if \masked
    hide_bank even
.endif
    eight scale, even, 0
    eight power, even, 0
    eight load, odd, 8
.if \masked
    hide_bank odd
.endif
    eight scale, odd, 0
    loop rounds, power_last
    powers odd, even, 0, 16, 1, \masked
    powers even, odd, 8, 24, 1, \masked
    saddi row, row, 16 * 512
    saddi out, out, 16 * 128
power_last:
    powers odd, even, 0, 0, 0, 0
    vadd.f32 v16, v16, odd.0
    vadd.f32 v17, v17, odd.1
    vadd.f32 v18, v18, odd.2
    vadd.f32 v19, v19, odd.3
    vadd.f32 v16, v16, odd.4
    vadd.f32 v17, v17, odd.5
    vadd.f32 v18, v18, odd.6
    vadd.f32 v19, v19, odd.7
    eight round, odd, 0
    eight store, odd, 8
    saddi row, row, 16 * 512
    saddi out, out, 16 * 128
power_rest:
    loop ones, power_done
    load v0, 0
.if \masked
    hide v0
.endif
    scale v0, 0
    power v0, 0
    vadd.f32 v16, v16, v0
    round v0, 0
    store v0, 0
    saddi row, row, 512
    saddi out, out, 128
power_done:
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

# O = a O. s1: O^T, s2: queries. A row a cycle: one is stored, one loaded, one multiplied.
.macro times_a v, at
    vmul.f32 \v, \v, a
.endm
.macro put v, at
    vst.f32 \v, 512 * (\at)(row)
.endm
.macro turn bank, to, other, i
    put \bank.\i, \to + \i
    load \bank.\i, \to + 16 + \i
    times_a \other.\i, 0
.endm
.macro turns bank, to, other
    turn \bank, \to, \other, 0
    turn \bank, \to, \other, 1
    turn \bank, \to, \other, 2
    turn \bank, \to, \other, 3
    turn \bank, \to, \other, 4
    turn \bank, \to, \other, 5
    turn \bank, \to, \other, 6
    turn \bank, \to, \other, 7
.endm

.kernel rescale
    vwhile.f32 p1, s2
    sli s3, STATE
    vld.f32 a, 1024(s3)
    saddi row, s1, 0
    eight load, even, 0
    eight load, odd, 8
    eight times_a, even, 0
    sli s4, D / 16 - 1
    loop s4, last
    turns even, 0, odd
    turns odd, 8, even
    saddi row, row, 16 * 512
last:
    eight put, even, 0
    eight times_a, odd, 0
    eight put, odd, 8
    vret

# O = O / l as BF16; 0 where l is 0, for a query that saw no key. s1: O^T, s2: result, s3: queries
.macro to_bf16 v, at
    vcvt.bf16.f32 \v, \v, 0, 0
.endm
.macro put_bf16 v, at
    vst.bf16 \v, 256 * (\at)(out) ?p2
.endm

.kernel finish_item
    vwhile.f32 p1, s3
    sli s4, 128
    vwhile.bf16 p2, s4
    sli s4, STATE
    vld.f32 l, 512(s4)
    sli s4, float(1e-30)        # keeps 0 / 0 away; a key that is seen adds far more
    vbc.f32 a, s4
    vmax.f32 l, l, a
    vrcp.f32 a, l
    saddi row, s1, 0
    saddi out, s2, 0
    sli s5, D / 16
    loop s5, end
    eight load, even, 0
    eight load, odd, 8
    eight times_a, even, 0
    eight times_a, odd, 0
    eight to_bf16, even, 0
    eight to_bf16, odd, 0
    eight put_bf16, even, 0
    eight put_bf16, odd, 8
    saddi row, row, 16 * 512
    saddi out, out, 16 * 256
end:
    vret
