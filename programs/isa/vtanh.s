# vtanh: hyperbolic tangent. Results are the true ones, rounded to nearest.
.include "lib.inc"
.tensor F_A, tsram, f32, [128], payload, values(0.5, -1.25, 0.125, 0, -0.0, 20, -20, inf, -inf, nan, 9.094947017729282e-13)
.tensor B_A, tsram, bf16, [256], payload, values(0.5, -1.25, 0.125, 3, -0.0, nan)
.tensor H_A, tsram, f16, [256], payload, values(0.5, -1.25, 0.125, 3, -0.0)
.tensor F_OUT, tsram, f32, [128], payload
.expect F_OUT, values(0.46211716532707214, -0.8482836484909058, 0.12435299903154373, 0, -0.0, 1, -1, 1, -1, nan, 9.094947017729282e-13)
.tensor FEW, tsram, f32, [128], payload
# two lanes on: the others keep 7
.expect FEW, values(0.46211716532707214, -0.8482836484909058, 7)
.tensor B_OUT, tsram, bf16, [256], payload
.expect B_OUT, values(0.462890625, -0.84765625, 0.12451171875, 0.99609375, -0.0, nan)
.tensor H_OUT, tsram, f16, [256], payload
.expect H_OUT, values(0.462158203125, -0.84814453125, 0.12432861328125, 0.9951171875, -0.0)

    run_test

.kernel test
    sli s1, F_A
    vld.f32 v1, 0(s1)
    vtanh.f32 v2, v1
    sli s1, F_OUT
    vst.f32 v2, 0(s1)
    sli s3, 2
    vwhile.f32 p1, s3
    sli s4, float(7)
    vbc.f32 v3, s4
    vtanh.f32 v3, v1 ?p1
    sli s1, FEW
    vst.f32 v3, 0(s1)
    sli s1, B_A
    vld.bf16 v1, 0(s1)
    vtanh.bf16 v2, v1
    sli s1, B_OUT
    vst.bf16 v2, 0(s1)
    sli s1, H_A
    vld.f16 v1, 0(s1)
    vtanh.f16 v2, v1
    sli s1, H_OUT
    vst.f16 v2, 0(s1)
    vret
