# vlog2: logarithm to base 2. Results are the true ones, rounded to nearest.
.include "lib.inc"
.tensor F_A, tsram, f32, [128], payload, values(3, 10, 1, 8, 0.125, 1.401298464324817e-45, 0, -0.0, inf, -1, nan, 1.0000001192092896)
.tensor B_A, tsram, bf16, [256], payload, values(3, 10, 8, 0.125, -1)
.tensor H_A, tsram, f16, [256], payload, values(3, 10, 8, 0.125, 5.960464477539063e-08, -1)
.tensor F_OUT, tsram, f32, [128], payload
.expect F_OUT, values(1.5849624872207642, 3.321928024291992, 0, 3, -3, -149, -inf, -inf, inf, nan, nan, 1.7198263435602712e-07)
.tensor FEW, tsram, f32, [128], payload
# two lanes on: the others keep 7
.expect FEW, values(1.5849624872207642, 3.321928024291992, 7)
.tensor B_OUT, tsram, bf16, [256], payload
.expect B_OUT, values(1.5859375, 3.328125, 3, -3, nan)
.tensor H_OUT, tsram, f16, [256], payload
.expect H_OUT, values(1.5849609375, 3.322265625, 3, -3, -24, nan)

    run_test

.kernel test
    sli s1, F_A
    vld.f32 v1, 0(s1)
    vlog2.f32 v2, v1
    sli s1, F_OUT
    vst.f32 v2, 0(s1)
    sli s3, 2
    vwhile.f32 p1, s3
    sli s4, float(7)
    vbc.f32 v3, s4
    vlog2.f32 v3, v1 ?p1
    sli s1, FEW
    vst.f32 v3, 0(s1)
    sli s1, B_A
    vld.bf16 v1, 0(s1)
    vlog2.bf16 v2, v1
    sli s1, B_OUT
    vst.bf16 v2, 0(s1)
    sli s1, H_A
    vld.f16 v1, 0(s1)
    vlog2.f16 v2, v1
    sli s1, H_OUT
    vst.f16 v2, 0(s1)
    vret
