# por: or of two predicates, lane by lane.
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
.tensor OUT, tsram, i32, [128], payload
.expect OUT, values(1, 1, 1, 1, 1, 1, 0)
.tensor SAME, tsram, i32, [128], payload
# both sources and the destination the same
.expect SAME, values(1, 1, 0)
.tensor WITH_ALL, tsram, i32, [128], payload
# p0 is always on
.expect WITH_ALL, values(1)

    run_test

.kernel test
    sli s1, 2
    vwhile.f32 p1, s1           # lanes 0, 1
    sli s1, 4
    vwhile.f32 p2, s1           # lanes 0 to 3
    sli s1, 6
    vwhile.f32 p3, s1           # lanes 0 to 5
    pandn p4, p3, p1            # lanes 2 to 5
    por p5, p2, p4
    see p5, OUT
    por p6, p0, p2
    see p6, WITH_ALL
    por p1, p1, p1
    see p1, SAME
    vret
