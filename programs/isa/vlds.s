# vlds: loads elements a stride of bytes apart; lanes that are off become 0 and read nothing.
.include "lib.inc"
.tensor A, tsram, i32, [512], payload, iota
.tensor B, tsram, bf16, [8], payload, values(5, 6)
.tensor ONE, tsram, i32, [128], payload
# a stride of 4 is the next element
.expect ONE, iota
.tensor EVEN, tsram, i32, [128], payload
# every other element, four lanes
.expect EVEN, values(0, 2, 4, 6, 0)
.tensor DOWN, tsram, i32, [128], payload
# a negative stride
.expect DOWN, values(9, 8, 7, 6, 0)
.tensor SAME, tsram, bf16, [256], payload
# stride 0
.expect SAME, values(6)
.tensor FAR, tsram, i32, [128], payload
# 400 bytes apart
.expect FAR, values(0, 100, 200, 300, 0)

    run_test

.kernel test
    sli s1, A
    sli s3, 4
    vwhile.i32 p1, s3
    vlds.i32 v1, 0(s1), s3
    sli s2, ONE
    vst.i32 v1, 0(s2)
    sli s3, 8
    vlds.i32 v1, 0(s1), s3 ?p1
    sli s2, EVEN
    vst.i32 v1, 0(s2)
    sli s3, -4
    vlds.i32 v1, 4 * 9(s1), s3 ?p1
    sli s2, DOWN
    vst.i32 v1, 0(s2)
    sli s4, B
    vlds.bf16 v1, 2(s4), s0
    sli s2, SAME
    vst.bf16 v1, 0(s2)
    sli s3, 400
    vlds.i32 v1, 0(s1), s3 ?p1
    sli s2, FAR
    vst.i32 v1, 0(s2)
    vret
