# sli: a 48-bit immediate, sign-extended.
.include "lib.inc"
# Stores both halves of a scalar register at OUT[2 * at].
.macro show r, at
    sli s13, 1
    vwhile.i32 p1, s13
    sli s13, OUT + 8 * \at
    vbc.i32 v1, \r
    vst.i32 v1, 0(s13) ?p1
    sshri s14, \r, 32
    vbc.i32 v1, s14
    vst.i32 v1, 4(s13) ?p1
.endm
.tensor OUT, tsram, i32, [12], payload
# low and high half of each
.expect OUT, values(0, 0, 5, 0, -5, -1, -1, 0x7fff, 0, -0x8000, 0, 0)

    run_test

.kernel test
    sli s1, 0
    show s1, 0
    sli s1, 5
    show s1, 1
    sli s1, -5
    show s1, 2
    sli s1, 0x7fffffffffff
    show s1, 3
    sli s1, -0x800000000000
    show s1, 4
    sli s0, 7                   # s0 stays zero
    show s0, 5
    vret
