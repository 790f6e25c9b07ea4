# vmul: multiplies lane by lane. FP32 rounds to nearest even; 16-bit floats compute in FP32 and round once, saturating; i32 keeps the low 32 bits.
.include "lib.inc"
.tensor F_A, tsram, f32, [128], payload, values(1.5, 1.0000001192092896, 1.000244140625, 7.888609052210118e-31, 7.888609052210118e-31, 1.2676506002282294e+30, 0, nan, -0.0)
.tensor F_B, tsram, f32, [128], payload, values(-2.25, 1.0000001192092896, 1.000244140625, 1.7763568394002505e-15, -8.881784197001252e-16, 1.2676506002282294e+30, inf, 0, 5)
.tensor I_A, tsram, i32, [128], payload, values(6, 65536, -2147483648, 123456789)
.tensor I_B, tsram, i32, [128], payload, values(-7, 65536, -1, 1000)
.tensor B_A, tsram, bf16, [256], payload, values(1.5, 1.0078125, 1.0625, 1.2676506002282294e+30)
.tensor B_B, tsram, bf16, [256], payload, values(-2.25, 1.0078125, 1.1875, 1.2676506002282294e+30)
.tensor H_A, tsram, f16, [256], payload, values(1.5, 1.0009765625, 256, 0.000244140625)
.tensor H_B, tsram, f16, [256], payload, values(-2.25, 1.0009765625, 256, 1.0 / 8192)
.tensor F_OUT, tsram, f32, [128], payload
.expect F_OUT, values(-3.375, 1.000000238418579, 1.00048828125, 1.401298464324817e-45, -0.0, inf, nan, nan, -0.0)
.tensor I_OUT, tsram, i32, [128], payload
.expect I_OUT, values(-42, 0, -2147483648, -1097262584)
.tensor B_OUT, tsram, bf16, [256], payload
.expect B_OUT, values(-3.375, 1.015625, 1.265625, 3.3895313892515355e+38)
.tensor H_OUT, tsram, f16, [256], payload
.expect H_OUT, values(-3.375, 1.001953125, 65504, 0)
.tensor FEW, tsram, f32, [128], payload
# two lanes on: the others keep what the destination held, here b
.expect FEW, values(-3.375, 1.000000238418579, 1.000244140625, 1.7763568394002505e-15, -8.881784197001252e-16, 1.2676506002282294e+30, inf, 0, 5)

    run_test

.kernel test
    sli s1, F_A
    vld.f32 v1, 0(s1)
    sli s1, F_B
    vld.f32 v2, 0(s1)
    vmul.f32 v3, v1, v2
    sli s1, F_OUT
    vst.f32 v3, 0(s1)
    sli s1, I_A
    vld.i32 v1, 0(s1)
    sli s1, I_B
    vld.i32 v2, 0(s1)
    vmul.i32 v3, v1, v2
    sli s1, I_OUT
    vst.i32 v3, 0(s1)
    sli s1, B_A
    vld.bf16 v1, 0(s1)
    sli s1, B_B
    vld.bf16 v2, 0(s1)
    vmul.bf16 v3, v1, v2
    sli s1, B_OUT
    vst.bf16 v3, 0(s1)
    sli s1, H_A
    vld.f16 v1, 0(s1)
    sli s1, H_B
    vld.f16 v2, 0(s1)
    vmul.f16 v3, v1, v2
    sli s1, H_OUT
    vst.f16 v3, 0(s1)
    # Only two lanes on; the destination is one of the sources.
    sli s1, F_A
    vld.f32 v1, 0(s1)
    sli s1, F_B
    vld.f32 v2, 0(s1)
    sli s3, 2
    vwhile.f32 p1, s3
    vmul.f32 v2, v1, v2 ?p1
    sli s1, FEW
    vst.f32 v2, 0(s1)
    vret
