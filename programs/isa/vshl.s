# vshl: shift left of 32-bit lanes by the low 5 bits of the second source: 32 is 0, -1 is 31.
.include "lib.inc"
.tensor A, tsram, i32, [128], payload, values(3, 1, -0x7fffffff, 0x12345678, 0x12345678, 0x12345678, -1)
.tensor B, tsram, i32, [128], payload, values(4, 0x1f, 1, 0, 0x20, -1, 0x1c)
.tensor OUT, tsram, i32, [128], payload
.expect OUT, values(0x30, -0x80000000, 2, 0x12345678, 0x12345678, 0, -0x10000000)
.tensor FEW, tsram, i32, [128], payload
# two lanes on: the others keep b, which the destination held
.expect FEW, values(0x30, -0x80000000, 1, 0, 0x20, -1, 0x1c)

    run_test

.kernel test
    sli s1, A
    vld.i32 v1, 0(s1)
    sli s1, B
    vld.i32 v2, 0(s1)
    vshl v3, v1, v2
    sli s1, OUT
    vst.i32 v3, 0(s1)
    sli s3, 2
    vwhile.i32 p1, s3
    vshl v2, v1, v2 ?p1
    sli s1, FEW
    vst.i32 v2, 0(s1)
    vret
