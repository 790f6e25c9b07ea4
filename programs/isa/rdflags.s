# rdflags: takes the unit's sticky conversion flags: bit 0 of its DMA, bit 1 of its vector processor.
.include "lib.inc"
# FP32: a NaN, then 1.
.tensor NAN, tsram, i32, [128], payload, values(0x7fc00000, 0x3f800000)
.tensor FP4, tsram, e2m1, [128], payload
.expect FP4, values(6, 1)                   # the NaN has become the largest value
.tensor FP8, tsram, u8, [32], payload
.expect FP8, values(0x7f, 0x38)             # E4M3 has a NaN
.tensor S, tsram, u8, [4], payload
.expect S, values(125)                      # the largest magnitude is 1: 2^-2 puts it at 4, and a NaN does not count
.tensor Q, tsram, e2m1, [128], payload
.expect Q, values(6, 4)

.kernel lossless
    sli s1, NAN
    vld.f32 v1, 0(s1)
    vcvt.e4m3.f32 v2, v1, 0, 0
    vcvt.i8.f32 v2, v1, 0, 0                # 0 in integers: no flag
    sli s2, 1
    vwhile.f32 p1, s2
    pandn p1, p0, p1
    vcvt.e2m1.f32 v2, v1, 0, 0 ?p1          # the lane of the NaN is off
    vret
.kernel lossy
    sli s1, NAN
    vld.f32 v1, 0(s1)
    vcvt.e2m3.f32 v2, v1, 0, 0
    vret
.kernel quantise
    sli s1, NAN
    vld.f32 v1, 0(s1)
    vquant.rceil.e3m2 v2, v3, v1, s0
    vret

.tile
    only_tile_0
    rdflags r1
    check_eq r1, 0, 1
    li r2, NAN
    li r3, 32
    li r4, FP8
    signal 0, 1
    dma.f32.e4m3 0, r4, r2, r3
    sem.wait 0, 1
    rdflags r1
    check_eq r1, 0, 2
    li r3, 128
    li r4, FP4
    signal 0, 1
    dma.f32.e2m1 0, r4, r2, r3
    sem.wait 0, 1
    rdflags r1
    check_eq r1, 1, 3
    rdflags r1                              # taken
    check_eq r1, 0, 4
    signal 0, 1
    vrun lossless, r0, 0
    sem.wait 0, 1
    rdflags r1
    check_eq r1, 0, 5
    signal 0, 1
    vrun lossy, r0, 0
    sem.wait 0, 1
    rdflags r1
    check_eq r1, 2, 6
    li r4, Q
    li r5, S
    li r6, 1
    signal 0, 1
    dma.q.floor.f32.e2m1 0, r4, r2, r3, r5, r6, r0
    signal 0, 1
    vrun quantise, r0, 0
    sem.wait 0, 2
    rdflags r1
    check_eq r1, 3, 7
    halt
