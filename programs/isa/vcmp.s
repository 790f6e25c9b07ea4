# vcmp: compares into a predicate. A NaN compares false except for `ne`; -0 equals +0.
.include "lib.inc"
# Stores predicate \p as 1 and 0 in 32-bit lanes.
.macro see p, out
    sli s14, 1
    vbc.i32 v30, s14
    vbc.i32 v31, s0
    vsel.i32 v30, \p, v30, v31
    sli s14, \out
    vst.i32 v30, 0(s14)
.endm

# Stores predicate \p as 1 and 0 in 16-bit lanes.
.macro see16 p, out
    sli s14, 1
    vbc.f16 v30, s14
    vbc.f16 v31, s0
    vsel.f16 v30, \p, v30, v31
    sli s14, \out
    vst.i16 v30, 0(s14)
.endm
.tensor A, tsram, f32, [128], payload, values(1, 2, 2, -1, -0.0, nan, nan, -inf, 1)
.tensor B, tsram, f32, [128], payload, values(2, 1, 2, 1, 0, 1, nan, inf, 1)
.tensor I_A, tsram, i32, [128], payload, values(1, 2, 2, -1, -2147483648, 5)
.tensor I_B, tsram, i32, [128], payload, values(2, 1, 2, 1, 2147483647, 5)
.tensor H_A, tsram, bf16, [256], payload, values(-1, 1, 0, -0.0, -2.5)
.tensor LT, tsram, i32, [128], payload
.expect LT, values(1, 0, 0, 1, 0, 0, 0, 1, 0)
.tensor LE, tsram, i32, [128], payload
.expect LE, values(1, 0, 1, 1, 1, 0, 0, 1, 1)
.tensor EQ, tsram, i32, [128], payload
.expect EQ, values(0, 0, 1, 0, 1, 0, 0, 0, 1)
.tensor NE, tsram, i32, [128], payload
.expect NE, values(1, 1, 0, 1, 0, 1, 1, 1, 0)
.tensor GE, tsram, i32, [128], payload
.expect GE, values(0, 1, 1, 0, 1, 0, 0, 0, 1)
.tensor GT, tsram, i32, [128], payload
.expect GT, values(0, 1, 0, 0, 0, 0, 0, 0, 0)
.tensor I_LT, tsram, i32, [128], payload
.expect I_LT, values(1, 0, 0, 1, 1, 0)
.tensor I_GE, tsram, i32, [128], payload
.expect I_GE, values(0, 1, 1, 0, 0, 1)
.tensor FEW, tsram, i32, [128], payload
.expect FEW, values(1, 1, 0)
.tensor H_NE, tsram, i16, [256], payload
# lanes whose value is negative; -0 equals 0
.expect H_NE, values(1, 0, 0, 0, 1)

    run_test

.kernel test
    sli s1, A
    vld.f32 v1, 0(s1)
    sli s1, B
    vld.f32 v2, 0(s1)
    vcmp.lt.f32 p1, v1, v2
    see p1, LT
    vcmp.le.f32 p1, v1, v2
    see p1, LE
    vcmp.eq.f32 p1, v1, v2
    see p1, EQ
    vcmp.ne.f32 p1, v1, v2
    see p1, NE
    vcmp.ge.f32 p1, v1, v2
    see p1, GE
    vcmp.gt.f32 p1, v1, v2
    see p1, GT
    sli s1, I_A
    vld.i32 v1, 0(s1)
    sli s1, I_B
    vld.i32 v2, 0(s1)
    vcmp.lt.i32 p1, v1, v2      # signed
    see p1, I_LT
    vcmp.ge.i32 p1, v1, v2
    see p1, I_GE
    # Lanes that are off become 0, whatever the predicate held.
    sli s3, 2
    vwhile.i32 p2, s3
    vcmp.eq.i32 p1, v1, v1 ?p2
    see p1, FEW
    # Types of 16 bits have 256 lanes.
    sli s1, H_A
    vld.bf16 v1, 0(s1)
    vabs.bf16 v2, v1
    vcmp.ne.bf16 p1, v1, v2
    see16 p1, H_NE
    vret
