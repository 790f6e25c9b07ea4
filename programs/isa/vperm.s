# vperm: permutes lanes by an index register; an index counts modulo the number of lanes.
.include "lib.inc"
.tensor A, tsram, i32, [128], payload, iota
.tensor IDX, tsram, i32, [128], payload, values(5, 0, 127, 128, -1, 300, 7)
.tensor W, tsram, i16, [256], payload, iota
.tensor WIDX, tsram, i16, [256], payload, values(5, 0, 255, 256, -1, 300, 7)
.tensor OUT, tsram, i32, [128], payload
# 128 is 0, -1 is 127, 300 is 44
.expect OUT, values(5, 0, 127, 0, 127, 44, 7)
.tensor WIDE, tsram, i16, [256], payload
# 16-bit indices and 256 lanes: 256 is 0, -1 is 255, 300 is 44
.expect WIDE, values(5, 0, 255, 0, 255, 44, 7)
.tensor FEW, tsram, i32, [128], payload
# two lanes on: the others keep -1
.expect FEW, values(5, 0, -1)

    run_test

.kernel test
    sli s1, A
    vld.i32 v1, 0(s1)
    sli s1, IDX
    vld.i32 v2, 0(s1)
    vperm.i32 v3, v1, v2
    sli s1, OUT
    vst.i32 v3, 0(s1)
    sli s3, 2
    vwhile.i32 p1, s3
    sli s3, -1
    vbc.i32 v3, s3
    vperm.i32 v3, v1, v2 ?p1
    sli s1, FEW
    vst.i32 v3, 0(s1)
    sli s1, W
    vld.i16 v1, 0(s1)
    sli s1, WIDX
    vld.i16 v2, 0(s1)
    vperm.bf16 v3, v1, v2
    sli s1, WIDE
    vst.i16 v3, 0(s1)
    vret
