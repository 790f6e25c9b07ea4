# vwhile: the predicate of the first lanes: none for 0 and less, all from the number of lanes on.
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
.tensor THREE, tsram, i32, [128], payload
.expect THREE, values(1, 1, 1, 0)
.tensor NONE, tsram, i32, [128], payload
.expect NONE, values(0)
.tensor NEGATIVE, tsram, i32, [128], payload
.expect NEGATIVE, values(0)
.tensor ALL, tsram, i32, [128], payload
.expect ALL, values(1)
.tensor MORE, tsram, i32, [128], payload
.expect MORE, values(1)
.tensor WIDE, tsram, i16, [256], payload
# types of 16 bits have 256 lanes
.expect WIDE, values(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0)

    run_test

.kernel test
    sli s1, 3
    vwhile.f32 p1, s1
    see p1, THREE
    vwhile.i32 p1, s0
    see p1, NONE
    sli s1, -5                  # signed
    vwhile.f32 p1, s1
    see p1, NEGATIVE
    sli s1, 128
    vwhile.f32 p1, s1
    see p1, ALL
    sli s1, 1 << 40
    vwhile.f32 p1, s1
    see p1, MORE
    sli s1, 200
    vwhile.bf16 p1, s1
    see16 p1, WIDE
    vret
