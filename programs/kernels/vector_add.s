# vector_add: C = A + B, FP32, on all tiles.
#
# What to learn here
#   - A vector kernel: 128 FP32 lanes, hardware loops, predicates for the ragged end. It is launched by `vrun` like any other
#     macro-instruction, with scalar arguments captured from control registers.
#   - Double buffering: while the vector processor adds chunk i, the DMA loads chunk i + 1 and stores chunk i - 1.
#   - One semaphore per buffer. One shared "both inputs are free" semaphore would be a race: the A loads, on a channel of
#     their own, could run a chunk ahead, take the token meant for B, and overwrite an A that is still to be added.
#
# Tile t adds chunks t, t + tiles, ... of CHUNK elements; the last one may be short, by any number of elements.

.equ N, (1 << 20) + 77          # elements: 4 MiB an operand, and a ragged end
.equ CHUNK, 8192                # elements: 32 KiB a buffer

.tensor A, hbm, f32, [N], payload, normal(1)
.tensor B, hbm, f32, [N], payload, normal(2)
.tensor C, hbm, f32, [N], payload
.tensor A_BUF, tsram, f32, [2, CHUNK], payload
.tensor B_BUF, tsram, f32, [2, CHUNK], payload
.tensor C_BUF, tsram, f32, [2, CHUNK], payload

# Semaphores, each one for slot 0 and slot 1: `NAME(slot)`.
.equ A_FREE, 0
.equ B_FREE, 2
.equ C_FREE, 4
.equ IN_FULL, 6                 # A and B add one each
.equ C_FULL, 8

.reg me,    r1
.reg i,     r2                  # first element of the chunk
.reg step,  r3
.reg end,   r4
.reg slot,  r5                  # 0 or 1
.reg bytes, r6                  # byte offset of the chunk
.reg src,   r7
.reg t,     r12
# Arguments of the kernel: consecutive registers.
.reg abuf,  r8
.reg bbuf,  r9
.reg cbuf,  r10
.reg len,   r11                 # elements of the chunk

.tile
    rdsr me, tile
    muli i, me, CHUNK
    rdsr step, tiles
    muli step, step, CHUNK
    li end, N
    li slot, 0
.set s, 0
.rept 2
    sem.post me, A_FREE + s, 1
    sem.post me, B_FREE + s, 1
    sem.post me, C_FREE + s, 1
.set s, s + 1
.endr

next:
    bge i, end, done
    sub len, end, i
    li t, CHUNK
    min len, len, t
    shli bytes, i, 2
    muli t, slot, CHUNK * 4
    li abuf, A_BUF
    add abuf, abuf, t
    li t, B_BUF - A_BUF
    add bbuf, abuf, t
    li t, C_BUF - A_BUF
    add cbuf, abuf, t

    li src, A
    add src, src, bytes
    wait A_FREE(slot), 1
    signal IN_FULL(slot), 1
    dma.f32.f32 0, abuf, src, len

    li src, B
    add src, src, bytes
    wait B_FREE(slot), 1
    signal IN_FULL(slot), 1
    dma.f32.f32 1, bbuf, src, len

    wait IN_FULL(slot), 2       # both operands are here,
    wait C_FREE(slot), 1        # and the result that was here is stored
    signal A_FREE(slot), 1
    signal B_FREE(slot), 1
    signal C_FULL(slot), 1
    vrun add_f32, abuf, 4

    li src, C
    add src, src, bytes
    wait C_FULL(slot), 1
    signal C_FREE(slot), 1
    dma.f32.f32 2, src, cbuf, len

    add i, i, step
    xori slot, slot, 1
    j next
done:
    halt

# s1, s2, s3: addresses of a, b and c; s4: elements.
# Issue is in order, one load a cycle: four vectors at a time, so that the latency of loads and additions overlaps.
.kernel add_f32
    sshri s5, s4, 9             # rounds of 4 x 128 elements
    loop s5, rest
    vld.f32 v0, 0(s1)
    vld.f32 v4, 0(s2)
    vld.f32 v1, 512(s1)
    vld.f32 v5, 512(s2)
    vld.f32 v2, 1024(s1)
    vld.f32 v6, 1024(s2)
    vld.f32 v3, 1536(s1)
    vld.f32 v7, 1536(s2)
    vadd.f32 v0, v0, v4
    vadd.f32 v1, v1, v5
    vadd.f32 v2, v2, v6
    vadd.f32 v3, v3, v7
    vst.f32 v0, 0(s3)
    vst.f32 v1, 512(s3)
    vst.f32 v2, 1024(s3)
    vst.f32 v3, 1536(s3)
    saddi s1, s1, 2048
    saddi s2, s2, 2048
    saddi s3, s3, 2048
rest:
    smuli s5, s5, -512
    sadd s4, s4, s5             # elements left: 0 to 511
    saddi s5, s4, 127
    sshri s5, s5, 7             # vectors left, the last one partly
    loop s5, finished
    vwhile.f32 p1, s4           # lanes below the number of elements left
    vld.f32 v0, 0(s1) ?p1
    vld.f32 v1, 0(s2) ?p1
    vadd.f32 v2, v0, v1
    vst.f32 v2, 0(s3) ?p1
    saddi s1, s1, 512
    saddi s2, s2, 512
    saddi s3, s3, 512
    saddi s4, s4, -128
finished:
    vret
