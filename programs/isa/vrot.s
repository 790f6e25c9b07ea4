# vrot: rotates lanes down: lane i takes lane i + imm, modulo the number of lanes.
.include "lib.inc"
.tensor A, tsram, i32, [128], payload, iota
.tensor W, tsram, i16, [256], payload, iota
.tensor NONE, tsram, i32, [128], payload
# by 0
.expect NONE, iota
.tensor FRONT, tsram, i32, [8], payload, values(-1)
# by 126: lanes 0 to 3
.expect FRONT, values(126, 127, 0, 1, -1)
.tensor OVER, tsram, i32, [8], payload, values(-1)
# by 130, which is 2
.expect OVER, values(2, 3, 4, 5, -1)
.tensor WIDE, tsram, i16, [8], payload, values(-1)
# 256 lanes by 255
.expect WIDE, values(255, 0, 1, 2, -1)
.tensor FEW, tsram, i32, [128], payload
# four lanes on: the others keep 7
.expect FEW, values(1, 2, 3, 4, 7)

    run_test

.kernel test
    sli s3, 4
    vwhile.i32 p1, s3           # four lanes, of either width
    sli s1, A
    vld.i32 v1, 0(s1)
    vrot.i32 v2, v1, 0
    sli s1, NONE
    vst.i32 v2, 0(s1)
    vrot.i32 v2, v1, 126
    sli s1, FRONT
    vst.i32 v2, 0(s1) ?p1
    vrot.i32 v2, v1, 130
    sli s1, OVER
    vst.i32 v2, 0(s1) ?p1
    sli s3, 7
    vbc.i32 v2, s3
    vrot.i32 v2, v1, 1 ?p1
    sli s1, FEW
    vst.i32 v2, 0(s1)
    sli s1, W
    vld.i16 v1, 0(s1)
    vrot.f16 v1, v1, 255        # in place
    sli s1, WIDE
    vst.i16 v1, 0(s1) ?p1
    vret
