# vsts: stores elements a stride of bytes apart, in ascending order of lanes; lanes that are off store nothing.
.include "lib.inc"
.tensor A, tsram, i32, [128], payload, iota
.tensor ONE, tsram, i32, [128], payload
# a stride of 4 is the next element
.expect ONE, iota
.tensor EVEN, tsram, i32, [8], payload, values(-1)
# three lanes, every other element
.expect EVEN, values(0, -1, 1, -1, 2, -1)
.tensor DOWN, tsram, i32, [4], payload, values(-1)
# a negative stride
.expect DOWN, values(2, 1, 0, -1)
.tensor LAST, tsram, i32, [2], payload, values(-1)
# stride 0: the last lane is stored last
.expect LAST, values(127, -1)

    run_test

.kernel test
    sli s1, A
    vld.i32 v1, 0(s1)
    sli s2, ONE
    sli s3, 4
    vsts.i32 v1, 0(s2), s3
    sli s4, 3
    vwhile.i32 p1, s4
    sli s2, EVEN
    sli s3, 8
    vsts.i32 v1, 0(s2), s3 ?p1
    sli s2, DOWN
    sli s3, -4
    vsts.i32 v1, 4 * 2(s2), s3 ?p1
    sli s2, LAST
    vsts.i32 v1, 0(s2), s0
    vret
