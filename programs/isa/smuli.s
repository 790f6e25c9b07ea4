# smuli: low 64 bits of the product with a sign-extended 32-bit immediate.
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
# low and high half of each result
.expect OUT, values(0x2a, 0, -0x2a, -1, 0x2a, 0, 1, 0x3fffffff, 0, 0, 0, 0)

    run_test

.kernel test
    sli s1, 6
    smuli s3, s1, 7
    show s3, 0
    sli s1, 6
    smuli s3, s1, -7
    show s3, 1
    sli s1, -6
    smuli s3, s1, -7
    show s3, 2
    # the product has 64 bits
    sli s1, 0x7fffffff
    smuli s3, s1, 0x7fffffff
    show s3, 3
    # nothing left of it
    sli s1, 0x10000000000
    smuli s3, s1, 0x40000000
    show s3, 4
    # s0 stays zero.
    sli s1, 3
    smuli s0, s1, 1
    show s0, 5
    vret
