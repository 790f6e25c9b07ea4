# sshri: logical shift right of a scalar by an immediate of 0 to 63.
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
.expect OUT, values(3, 0, 0x30, 0, 0xf, 0, 1, 0, 0x80, 0, 0, 0)

    run_test

.kernel test
    sli s1, 48
    sshri s3, s1, 4
    show s3, 0
    sli s1, 48
    sshri s3, s1, 0
    show s3, 1
    # zeros come in
    sli s1, -1
    sshri s3, s1, 60
    show s3, 2
    sli s1, -0x80000000
    smuli s1, s1, 1 << 16
    smuli s1, s1, 1 << 16
    sli s12, 0x0
    sadd s1, s1, s12
    sshri s3, s1, 63
    show s3, 3
    sli s1, 0x10000000000
    sshri s3, s1, 33
    show s3, 4
    # s0 stays zero.
    sli s1, 3
    sshri s0, s1, 1
    show s0, 5
    vret
