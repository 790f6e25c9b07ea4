# vrcp: reciprocal. Results are the true ones, rounded to nearest.
.include "lib.inc"
.tensor F_A, tsram, f32, [128], payload, values(3, -10, 1, -4, 0, -0.0, inf, -inf, nan, 1.401298464324817e-45, 8.507059173023462e+37, 1.7014118346046923e+38)
.tensor B_A, tsram, bf16, [256], payload, values(3, -10, 1, 7, nan)
.tensor H_A, tsram, f16, [256], payload, values(3, -10, 1, 7, 0.25, 5.960464477539063e-08)
.tensor F_OUT, tsram, f32, [128], payload
.expect F_OUT, values(0.3333333432674408, -0.10000000149011612, 1, -0.25, inf, -inf, 0, -0.0, nan, inf, 1.1754943508222875e-38, 5.877471754111438e-39)
.tensor FEW, tsram, f32, [128], payload
# two lanes on: the others keep 7
.expect FEW, values(0.3333333432674408, -0.10000000149011612, 7)
.tensor B_OUT, tsram, bf16, [256], payload
.expect B_OUT, values(0.333984375, -0.10009765625, 1, 0.142578125, nan)
.tensor H_OUT, tsram, f16, [256], payload
.expect H_OUT, values(0.333251953125, -0.0999755859375, 1, 0.142822265625, 4, 65504)

    run_test

.kernel test
    sli s1, F_A
    vld.f32 v1, 0(s1)
    vrcp.f32 v2, v1
    sli s1, F_OUT
    vst.f32 v2, 0(s1)
    sli s3, 2
    vwhile.f32 p1, s3
    sli s4, float(7)
    vbc.f32 v3, s4
    vrcp.f32 v3, v1 ?p1
    sli s1, FEW
    vst.f32 v3, 0(s1)
    sli s1, B_A
    vld.bf16 v1, 0(s1)
    vrcp.bf16 v2, v1
    sli s1, B_OUT
    vst.bf16 v2, 0(s1)
    sli s1, H_A
    vld.f16 v1, 0(s1)
    vrcp.f16 v2, v1
    sli s1, H_OUT
    vst.f16 v2, 0(s1)
    vret
