# vexp2: 2 to the power. Results are the true ones, rounded to nearest.
.include "lib.inc"
.tensor F_A, tsram, f32, [128], payload, values(0.5, -1.25, 0, 3, -149, -150, 127, 128, -inf, inf, nan, 0.1)
.tensor B_A, tsram, bf16, [256], payload, values(0.5, -1.25, 3, -8, 7.5, nan)
.tensor H_A, tsram, f16, [256], payload, values(0.5, -1.25, 3, -8, -24, 15.5, 20)
.tensor F_OUT, tsram, f32, [128], payload
.expect F_OUT, values(1.4142135381698608, 0.4204482138156891, 1, 8, 1.401298464324817e-45, 0, 1.7014118346046923e+38, inf, 0, inf, nan, 1.0717734098434448)
.tensor FEW, tsram, f32, [128], payload
# two lanes on: the others keep 7
.expect FEW, values(1.4142135381698608, 0.4204482138156891, 7)
.tensor B_OUT, tsram, bf16, [256], payload
.expect B_OUT, values(1.4140625, 0.419921875, 8, 0.00390625, 181, nan)
.tensor H_OUT, tsram, f16, [256], payload
.expect H_OUT, values(1.4140625, 0.42041015625, 8, 0.00390625, 5.960464477539063e-08, 46336, 65504)

    run_test

.kernel test
    sli s1, F_A
    vld.f32 v1, 0(s1)
    vexp2.f32 v2, v1
    sli s1, F_OUT
    vst.f32 v2, 0(s1)
    sli s3, 2
    vwhile.f32 p1, s3
    sli s4, float(7)
    vbc.f32 v3, s4
    vexp2.f32 v3, v1 ?p1
    sli s1, FEW
    vst.f32 v3, 0(s1)
    sli s1, B_A
    vld.bf16 v1, 0(s1)
    vexp2.bf16 v2, v1
    sli s1, B_OUT
    vst.bf16 v2, 0(s1)
    sli s1, H_A
    vld.f16 v1, 0(s1)
    vexp2.f16 v2, v1
    sli s1, H_OUT
    vst.f16 v2, 0(s1)
    vret
