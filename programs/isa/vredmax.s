# vredmax: the largest of the active lanes, in every lane. A NaN among them gives NaN; +0 is larger than -0.
.include "lib.inc"
.tensor A, tsram, f32, [128], payload, values(-7, 3, -20, 5, 1, 9, 2, 30, 4)
.tensor ZEROS, tsram, f32, [128], payload, values(-0.0, 0, -0.0)
.tensor BAD, tsram, f32, [128], payload, values(1, 2, nan, 3)
.tensor COUNT, tsram, f32, [128], payload, iota
.tensor WIDE, tsram, bf16, [256], payload, iota
.tensor ALL, tsram, f32, [128], payload
.expect ALL, values(30)
.tensor LAST, tsram, f32, [128], payload
# of 0 to 127
.expect LAST, values(127)
.tensor FEW, tsram, f32, [128], payload
# lanes 0 to 5; the others do not count
.expect FEW, values(9)
.tensor NONE, tsram, f32, [128], payload
# no lane: minus infinity
.expect NONE, values(-inf)
.tensor ZERO, tsram, f32, [128], payload
.expect ZERO, values(0)
.tensor NAN, tsram, f32, [128], payload
.expect NAN, values(nan)
.tensor HALF, tsram, bf16, [256], payload
# of 0 to 255
.expect HALF, values(255)

    run_test

.kernel test
    sli s1, A
    vld.f32 v1, 0(s1)
    vredmax.f32 v2, v1
    sli s1, ALL
    vst.f32 v2, 0(s1)
    sli s3, 6
    vwhile.f32 p1, s3
    vredmax.f32 v2, v1 ?p1     # the result goes to all lanes
    sli s1, FEW
    vst.f32 v2, 0(s1)
    vwhile.f32 p1, s0
    vredmax.f32 v2, v1 ?p1
    sli s1, NONE
    vst.f32 v2, 0(s1)
    sli s1, COUNT
    vld.f32 v1, 0(s1)
    vredmax.f32 v2, v1
    sli s1, LAST
    vst.f32 v2, 0(s1)
    sli s1, ZEROS
    vld.f32 v1, 0(s1)
    vredmax.f32 v2, v1
    sli s1, ZERO
    vst.f32 v2, 0(s1)
    sli s1, BAD
    vld.f32 v1, 0(s1)
    vredmax.f32 v2, v1
    sli s1, NAN
    vst.f32 v2, 0(s1)
    sli s1, WIDE
    vld.bf16 v1, 0(s1)
    vredmax.bf16 v2, v1
    sli s1, HALF
    vst.bf16 v2, 0(s1)
    vret
