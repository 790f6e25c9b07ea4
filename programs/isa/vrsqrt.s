# vrsqrt: reciprocal square root. Results are the true ones, rounded to nearest.
.include "lib.inc"
.tensor F_A, tsram, f32, [128], payload, values(2, 10, 4, 0.25, 0, -0.0, inf, -1, nan, 2.802596928649634e-45)
.tensor B_A, tsram, bf16, [256], payload, values(2, 10, 4, 0.25, -1)
.tensor H_A, tsram, f16, [256], payload, values(2, 10, 4, 0.25, 5.960464477539063e-08, -1)
.tensor F_OUT, tsram, f32, [128], payload
.expect F_OUT, values(0.7071067690849304, 0.3162277638912201, 0.5, 2, inf, -inf, 0, nan, nan, 1.888946593147858e+22)
.tensor FEW, tsram, f32, [128], payload
# two lanes on: the others keep 7
.expect FEW, values(0.7071067690849304, 0.3162277638912201, 7)
.tensor B_OUT, tsram, bf16, [256], payload
.expect B_OUT, values(0.70703125, 0.31640625, 0.5, 2, nan)
.tensor H_OUT, tsram, f16, [256], payload
.expect H_OUT, values(0.70703125, 0.316162109375, 0.5, 2, 4096, nan)

    run_test

.kernel test
    sli s1, F_A
    vld.f32 v1, 0(s1)
    vrsqrt.f32 v2, v1
    sli s1, F_OUT
    vst.f32 v2, 0(s1)
    sli s3, 2
    vwhile.f32 p1, s3
    sli s4, float(7)
    vbc.f32 v3, s4
    vrsqrt.f32 v3, v1 ?p1
    sli s1, FEW
    vst.f32 v3, 0(s1)
    sli s1, B_A
    vld.bf16 v1, 0(s1)
    vrsqrt.bf16 v2, v1
    sli s1, B_OUT
    vst.bf16 v2, 0(s1)
    sli s1, H_A
    vld.f16 v1, 0(s1)
    vrsqrt.f16 v2, v1
    sli s1, H_OUT
    vst.f16 v2, 0(s1)
    vret
