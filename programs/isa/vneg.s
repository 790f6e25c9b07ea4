# vneg: negative: the sign bit is flipped; the least i32 stays as it is.
.include "lib.inc"
.tensor F_A, tsram, f32, [128], payload, values(-1.5, 2.25, 0, -0.0, inf)
.tensor I_A, tsram, i32, [128], payload, values(-5, 7, -2147483648, 2147483647)
.tensor B_A, tsram, bf16, [256], payload, values(-1.5, 0, 3)
.tensor H_A, tsram, f16, [256], payload, values(-1.5, 65504, 3)
.tensor F_OUT, tsram, f32, [128], payload
.expect F_OUT, values(1.5, -2.25, -0.0, 0, -inf)
.tensor FEW, tsram, f32, [128], payload
# two lanes on: the others keep 7
.expect FEW, values(1.5, -2.25, 7)
.tensor I_OUT, tsram, i32, [128], payload
.expect I_OUT, values(5, -7, -2147483648, -2147483647)
.tensor B_OUT, tsram, bf16, [256], payload
.expect B_OUT, values(1.5, -0.0, -3)
.tensor H_OUT, tsram, f16, [256], payload
.expect H_OUT, values(1.5, -65504, -3)

    run_test

.kernel test
    sli s1, F_A
    vld.f32 v1, 0(s1)
    vneg.f32 v2, v1
    sli s1, F_OUT
    vst.f32 v2, 0(s1)
    sli s3, 2
    vwhile.f32 p1, s3
    sli s4, float(7)
    vbc.f32 v3, s4
    vneg.f32 v3, v1 ?p1
    sli s1, FEW
    vst.f32 v3, 0(s1)
    sli s1, I_A
    vld.i32 v1, 0(s1)
    vneg.i32 v2, v1
    sli s1, I_OUT
    vst.i32 v2, 0(s1)
    sli s1, B_A
    vld.bf16 v1, 0(s1)
    vneg.bf16 v2, v1
    sli s1, B_OUT
    vst.bf16 v2, 0(s1)
    sli s1, H_A
    vld.f16 v1, 0(s1)
    vneg.f16 v2, v1
    sli s1, H_OUT
    vst.f16 v2, 0(s1)
    vret
