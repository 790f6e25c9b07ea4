# vfma: a * b + c, rounded once to FP32; 16-bit floats round that once more to their type, saturating.
.include "lib.inc"
.tensor F_A, tsram, f32, [128], payload, values(1.5, 1.0000001192092896, 1.0000001192092896, 3, 1.401298464324817e-45, inf, inf, 1.2676506002282294e+30)
.tensor F_B, tsram, f32, [128], payload, values(2, 1.0000001192092896, 0.9999998807907104, -4, 0.5, 0, 1, 1.2676506002282294e+30)
.tensor F_C, tsram, f32, [128], payload, values(0.25, -1.000000238418579, -1, 12, 1.401298464324817e-45, 1, -inf, -1)
.tensor B_A, tsram, bf16, [256], payload, values(1.5, 1.0078125, 16, 1.2676506002282294e+30, 1.0078125)
.tensor B_B, tsram, bf16, [256], payload, values(2, 1.0078125, 16, 1.2676506002282294e+30, 129)
.tensor B_C, tsram, bf16, [256], payload, values(0.25, -1.015625, 1, 0, 0)
.tensor H_A, tsram, f16, [256], payload, values(1.5, 1.0009765625, 64, 256)
.tensor H_B, tsram, f16, [256], payload, values(2, 1.0009765625, 32, 256)
.tensor H_C, tsram, f16, [256], payload, values(0.25, -1.001953125, 1, 0)
.tensor F_OUT, tsram, f32, [128], payload
# the product is not rounded: (1 + 2^-23)^2 - (1 + 2^-22) = 2^-46
.expect F_OUT, values(3.25, 1.4210854715202004e-14, -1.4210854715202004e-14, 0, 2.802596928649634e-45, nan, nan, inf)
.tensor BITS, tsram, i32, [128], payload
# the same as integers: there is one NaN, 0x7fc00000
.expect BITS, values(1078984704, 679477248, -1468006400, 0, 2, 0x7fc00000, 0x7fc00000, 2139095040)
.tensor FEW, tsram, f32, [128], payload
# two lanes on: the others keep c, which the destination held
.expect FEW, values(3.25, 1.4210854715202004e-14, -1, 12, 1.401298464324817e-45, 1, -inf, -1)
.tensor B_OUT, tsram, bf16, [256], payload
.expect B_OUT, values(3.25, 1.0 / 16384, 256, 3.3895313892515355e+38, 130)
.tensor H_OUT, tsram, f16, [256], payload
.expect H_OUT, values(3.25, 1.0 / 1048576, 2048, 65504)

    run_test

.kernel test
    sli s1, F_A
    vld.f32 v1, 0(s1)
    sli s1, F_B
    vld.f32 v2, 0(s1)
    sli s1, F_C
    vld.f32 v3, 0(s1)
    vfma.f32 v4, v1, v2, v3
    sli s1, F_OUT
    vst.f32 v4, 0(s1)
    sli s1, BITS
    vst.i32 v4, 0(s1)
    sli s3, 2
    vwhile.f32 p1, s3
    vfma.f32 v3, v1, v2, v3 ?p1
    sli s1, FEW
    vst.f32 v3, 0(s1)
    sli s1, B_A
    vld.bf16 v1, 0(s1)
    sli s1, B_B
    vld.bf16 v2, 0(s1)
    sli s1, B_C
    vld.bf16 v3, 0(s1)
    vfma.bf16 v4, v1, v2, v3
    sli s1, B_OUT
    vst.bf16 v4, 0(s1)
    sli s1, H_A
    vld.f16 v1, 0(s1)
    sli s1, H_B
    vld.f16 v2, 0(s1)
    sli s1, H_C
    vld.f16 v3, 0(s1)
    vfma.f16 v4, v1, v2, v3
    sli s1, H_OUT
    vst.f16 v4, 0(s1)
    vret
