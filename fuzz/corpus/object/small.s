# Two tiles: a transfer with clauses, a product, a kernel, a loop; a cluster that is told.
.tensor A, hbm, f32, [8, 8], payload, normal(1)
.tensor B, hbm, bf16, [64], payload
.tensor BUF, tsram, e4m3, [8, 8], payload, zero
.tensor OUT, tsram, f32, [8, 8], payload
.tensor IX, tsram, i32, [2], control, values(1, 0)
.expect IX, values(1, 0)
.const words, 1, -2, 0x123456789
.note maker, "corpus"
.tile
    rdsr r1, tile
    bnez r1, other
    li r1, BUF
    li r2, A
    li r3, 8
    li r4, 2
    li r5, 32
    li r6, IX
    dim r4, r3, r0
    gather r6, r5
    signal 0, 1
    dma.f32.e4m3 0, r1, r2, r3
    li r8, OUT
    li r9, 32
    wait 0, 1
    mm.new.e4m3.e4m3.mk.nk r0, r1, r1, r3, r3, r3, r3, r3
    signal 1, 1
    mm.store.f32 r0, r8, r3, r3, r9
    li r10, 2
again:
    sem.wait 1, 1
    signal 1, 1
    vrun work, r8, 1
    dec r10
    bnez r10, again
    li r2, B
    li r3, 64
    li r11, 0x100
    wait 1, 1
    signal.unit r11, 3, 1
    dma.f32.bf16 1, r2, r8, r3
    halt
other:
    ldc r7, words(r0)
    halt
.cluster
    sem.wait 3, 1
    halt
.kernel work
    sli s3, 2
    loop s3, end
    vld.f32 v1, 0(s1)
    vcmp.lt.f32 p1, v1, v0
    vneg.f32 v1, v1 ?p1
    vexp2.f32 v2, v1
    vst.f32 v2, 0(s1) ?p1
end:
    vret
