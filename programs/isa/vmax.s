# vmax: the larger, lane by lane. A NaN operand gives NaN; +0 is larger than -0.
.include "lib.inc"
.tensor F_A, tsram, f32, [128], payload, values(1.5, -1.5, inf, -inf, 1.401298464324817e-45, nan, 1, -0.0, 0)
.tensor F_B, tsram, f32, [128], payload, values(2.25, -2.25, 1, -3, 0, 1, nan, 0, -0.0)
.tensor I_A, tsram, i32, [128], payload, values(2, -2, -2147483648, 0)
.tensor I_B, tsram, i32, [128], payload, values(3, -3, 2147483647, -1)
.tensor B_A, tsram, bf16, [256], payload, values(1.5, -1.5, 1.7014118346046923e+38, nan, -0.0)
.tensor B_B, tsram, bf16, [256], payload, values(2.25, -2.25, 1, 1, 0)
.tensor H_A, tsram, f16, [256], payload, values(1.5, -1.5, 65504, nan, 0)
.tensor H_B, tsram, f16, [256], payload, values(2.25, -2.25, 1, 1, -0.0)
.tensor F_OUT, tsram, f32, [128], payload
.expect F_OUT, values(2.25, -1.5, inf, -3, 1.401298464324817e-45, nan, nan, 0, 0)
.tensor I_OUT, tsram, i32, [128], payload
.expect I_OUT, values(3, -2, 2147483647, 0)
.tensor B_OUT, tsram, bf16, [256], payload
.expect B_OUT, values(2.25, -1.5, 1.7014118346046923e+38, nan, 0)
.tensor H_OUT, tsram, f16, [256], payload
.expect H_OUT, values(2.25, -1.5, 65504, nan, 0)
.tensor FEW, tsram, f32, [128], payload
# two lanes on: the others keep what the destination held, here b
.expect FEW, values(2.25, -1.5, 1, -3, 0, 1, nan, 0, -0.0)

    run_test

.kernel test
    sli s1, F_A
    vld.f32 v1, 0(s1)
    sli s1, F_B
    vld.f32 v2, 0(s1)
    vmax.f32 v3, v1, v2
    sli s1, F_OUT
    vst.f32 v3, 0(s1)
    sli s1, I_A
    vld.i32 v1, 0(s1)
    sli s1, I_B
    vld.i32 v2, 0(s1)
    vmax.i32 v3, v1, v2
    sli s1, I_OUT
    vst.i32 v3, 0(s1)
    sli s1, B_A
    vld.bf16 v1, 0(s1)
    sli s1, B_B
    vld.bf16 v2, 0(s1)
    vmax.bf16 v3, v1, v2
    sli s1, B_OUT
    vst.bf16 v3, 0(s1)
    sli s1, H_A
    vld.f16 v1, 0(s1)
    sli s1, H_B
    vld.f16 v2, 0(s1)
    vmax.f16 v3, v1, v2
    sli s1, H_OUT
    vst.f16 v3, 0(s1)
    # Only two lanes on; the destination is one of the sources.
    sli s1, F_A
    vld.f32 v1, 0(s1)
    sli s1, F_B
    vld.f32 v2, 0(s1)
    sli s3, 2
    vwhile.f32 p1, s3
    vmax.f32 v2, v1, v2 ?p1
    sli s1, FEW
    vst.f32 v2, 0(s1)
    vret
