# vor: bitwise or of 32-bit lanes.
.include "lib.inc"
.tensor A, tsram, i32, [128], payload, values(0xc, -1, -0x80000000, 0, 0x55555555)
.tensor B, tsram, i32, [128], payload, values(0xa, 0x12345678, -0x7fffffff, -1, 0x33333333)
.tensor OUT, tsram, i32, [128], payload
.expect OUT, values(0xe, -1, -0x7fffffff, -1, 0x77777777)
.tensor FEW, tsram, i32, [128], payload
# two lanes on: the others keep b, which the destination held
.expect FEW, values(0xe, -1, -0x7fffffff, -1, 0x33333333)

    run_test

.kernel test
    sli s1, A
    vld.i32 v1, 0(s1)
    sli s1, B
    vld.i32 v2, 0(s1)
    vor v3, v1, v2
    sli s1, OUT
    vst.i32 v3, 0(s1)
    sli s3, 2
    vwhile.i32 p1, s3
    vor v2, v1, v2 ?p1
    sli s1, FEW
    vst.i32 v2, 0(s1)
    vret
