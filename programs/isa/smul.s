# smul: low 64 bits of the product of scalars.
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
.tensor OUT, tsram, i32, [10], payload
# low and high half of each result
.expect OUT, values(0x2a, 0, -0x2a, -1, 0, 0x100, 0, 0, 0, 0)

    run_test

.kernel test
    sli s1, 6
    sli s2, 7
    smul s3, s1, s2
    show s3, 0
    sli s1, -6
    sli s2, 7
    smul s3, s1, s2
    show s3, 1
    # all 64 bits take part
    sli s1, 0x100000
    sli s2, 0x100000
    smul s3, s1, s2
    show s3, 2
    # nothing left of it
    sli s1, 0x10000000000
    sli s2, 0x40000000
    smul s3, s1, s2
    show s3, 3
    # s0 stays zero.
    sli s1, 3
    smul s0, s1, s1
    show s0, 4
    vret
