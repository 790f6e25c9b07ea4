# saddi: 64-bit addition of a sign-extended 32-bit immediate.
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
.expect OUT, values(5, 0, -3, -1, 0x7fffffff, 0, -0x80000000, -1, 0, -0x80000000, 0, 0)

    run_test

.kernel test
    sli s1, 2
    saddi s3, s1, 3
    show s3, 0
    sli s1, 5
    saddi s3, s1, -8
    show s3, 1
    sli s1, 0
    saddi s3, s1, 0x7fffffff
    show s3, 2
    # the sign fills 64 bits
    sli s1, 0
    saddi s3, s1, -0x80000000
    show s3, 3
    # wraps to the least
    sli s1, 0x7fffffff
    smuli s1, s1, 1 << 16
    smuli s1, s1, 1 << 16
    sli s12, 0xffffffff
    sadd s1, s1, s12
    saddi s3, s1, 1
    show s3, 4
    # s0 stays zero.
    sli s1, 3
    saddi s0, s1, 1
    show s0, 5
    vret
