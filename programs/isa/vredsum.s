# vredsum: the sum over the active lanes, in every lane, by a fixed tree: lane i with lane i + 64, then i + 32, and so on.
.include "lib.inc"
.tensor COUNT, tsram, f32, [128], payload, iota
.tensor TREE, tsram, f32, [128], payload, values(16777216, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -16777216, 0)
.tensor WIDE, tsram, bf16, [256], payload, values(0.5)
.tensor ALL, tsram, f32, [128], payload
# 0 + 1 + .. + 127, in every lane
.expect ALL, values(8128)
.tensor ORDER, tsram, f32, [128], payload
# 2^24 meets -2^24 first, in lane 64; from left to right the 1 would be lost
.expect ORDER, values(1)
.tensor FEW, tsram, f32, [128], payload
# lanes 0 to 4; the others count as nothing
.expect FEW, values(10)
.tensor HALF, tsram, bf16, [256], payload
# 256 lanes of 0.5
.expect HALF, values(128)

    run_test

.kernel test
    sli s1, COUNT
    vld.f32 v1, 0(s1)
    vredsum.f32 v2, v1
    sli s1, ALL
    vst.f32 v2, 0(s1)
    sli s3, 5
    vwhile.f32 p1, s3
    vredsum.f32 v2, v1 ?p1      # the result goes to all lanes
    sli s1, FEW
    vst.f32 v2, 0(s1)
    sli s1, TREE
    vld.f32 v1, 0(s1)
    vredsum.f32 v2, v1
    sli s1, ORDER
    vst.f32 v2, 0(s1)
    sli s1, WIDE
    vld.bf16 v1, 0(s1)
    vredsum.bf16 v2, v1
    sli s1, HALF
    vst.bf16 v2, 0(s1)
    vret
