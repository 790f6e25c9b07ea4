# smax: the larger of two signed scalars.
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
.expect OUT, values(2, 0, 2, 0, 1, 0, -1, 0x7fffffff, 0, 0x100, 0, 0)

    run_test

.kernel test
    sli s1, 1
    sli s2, 2
    smax s3, s1, s2
    show s3, 0
    sli s1, 2
    sli s2, 1
    smax s3, s1, s2
    show s3, 1
    sli s1, -1
    sli s2, 1
    smax s3, s1, s2
    show s3, 2
    sli s1, -0x80000000
    smuli s1, s1, 1 << 16
    smuli s1, s1, 1 << 16
    sli s12, 0x0
    sadd s1, s1, s12
    sli s2, 0x7fffffff
    smuli s2, s2, 1 << 16
    smuli s2, s2, 1 << 16
    sli s12, 0xffffffff
    sadd s2, s2, s12
    smax s3, s1, s2
    show s3, 3
    # all 64 bits take part
    sli s1, 0x10000000000
    sli s2, 5
    smax s3, s1, s2
    show s3, 4
    # s0 stays zero.
    sli s1, 3
    smax s0, s1, s1
    show s0, 5
    vret
