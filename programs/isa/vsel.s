# vsel: selects lane by lane: where the predicate is on from the first source, else from the second.
.include "lib.inc"
.tensor A, tsram, i32, [128], payload, iota
.tensor B, tsram, i32, [128], payload, values(-1)
.tensor C, tsram, i16, [256], payload, iota
.tensor D, tsram, i16, [256], payload, values(-1)
.tensor OUT, tsram, i32, [128], payload
.expect OUT, values(0, 1, 2, -1)
.tensor ALL, tsram, i32, [128], payload
# p0 is always on
.expect ALL, iota
.tensor WIDE, tsram, i16, [256], payload
# 256 lanes of 16 bits
.expect WIDE, iota

    run_test

.kernel test
    sli s1, A
    vld.i32 v1, 0(s1)
    sli s1, B
    vld.i32 v2, 0(s1)
    sli s3, 3
    vwhile.i32 p1, s3
    vsel.i32 v3, p1, v1, v2
    sli s1, OUT
    vst.i32 v3, 0(s1)
    vsel.i32 v2, p0, v1, v2     # source and destination may be the same
    sli s1, ALL
    vst.i32 v2, 0(s1)
    sli s1, C
    vld.i16 v1, 0(s1)
    sli s1, D
    vld.i16 v2, 0(s1)
    sli s3, 256
    vwhile.bf16 p1, s3
    vsel.bf16 v3, p1, v1, v2
    sli s1, WIDE
    vst.i16 v3, 0(s1)
    vret
