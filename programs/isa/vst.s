# vst: stores consecutive elements; lanes that are off leave memory as it is.
.include "lib.inc"
.tensor A, tsram, i32, [132], payload, iota
.tensor B, tsram, i32, [128], payload, values(0x04030201)
.tensor W, tsram, i16, [256], payload, iota
.tensor SHIFTED, tsram, i32, [129], payload, zero
# 1 to 128 behind a zero: not aligned to a vector
.expect SHIFTED, iota
.tensor FEW, tsram, i32, [128], payload, values(-1)
# three lanes on
.expect FEW, values(1, 2, 3, -1)
.tensor WIDE, tsram, i16, [256], payload
# 256 lanes of 16 bits
.expect WIDE, iota
.tensor HALVES, tsram, i16, [8], payload, values(-1)
# six lanes: a register read as 16-bit elements, the low half of a word first
.expect HALVES, values(513, 1027, 513, 1027, 513, 1027, -1)
.tensor BYTES, tsram, u8, [8], payload, values(99)
# and as bytes
.expect BYTES, values(1, 2, 3, 4, 1, 2, 99)

    run_test

.kernel test
    sli s1, A
    vld.i32 v1, 4(s1)
    sli s2, SHIFTED + 512
    vst.i32 v1, 4 - 512(s2)     # a negative offset
    sli s3, 3
    vwhile.i32 p1, s3
    sli s2, FEW
    vst.i32 v1, 0(s2) ?p1
    sli s1, W
    vld.i16 v1, 0(s1)
    sli s2, WIDE
    vst.i16 v1, 0(s2)
    sli s1, B
    vld.i32 v1, 0(s1)
    sli s3, 6
    vwhile.bf16 p1, s3          # six of 256 lanes
    sli s2, HALVES
    vst.i16 v1, 0(s2) ?p1
    sli s2, BYTES
    vst.u8 v1, 0(s2) ?p1
    vret
