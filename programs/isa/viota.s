# viota: lane numbers from a scalar on, as 32-bit integers; lanes that are off keep what they had.
.include "lib.inc"
.tensor ZERO, tsram, i32, [128], payload
.expect ZERO, iota
.tensor FROM, tsram, i32, [8], payload, values(99)
# from -3 on; five lanes stored
.expect FROM, values(-3, -2, -1, 0, 1, 99)
.tensor WRAP, tsram, i32, [128], payload
# past the largest to the least; the other lanes off
.expect WRAP, values(2147483647, -2147483648, -2147483647, 7)

    run_test

.kernel test
    viota v1, s0
    sli s1, ZERO
    vst.i32 v1, 0(s1)
    sli s2, -3
    viota v1, s2
    sli s2, 5
    vwhile.i32 p1, s2
    sli s1, FROM
    vst.i32 v1, 0(s1) ?p1
    sli s2, 7
    vbc.i32 v1, s2
    sli s2, 3
    vwhile.i32 p1, s2
    sli s2, 0x7fffffff
    viota v1, s2 ?p1
    sli s1, WRAP
    vst.i32 v1, 0(s1)
    vret
