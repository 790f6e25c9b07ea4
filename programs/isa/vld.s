# vld: loads consecutive elements; lanes that are off become 0.
.include "lib.inc"
.tensor A, tsram, f32, [132], payload, iota
.tensor B, tsram, bf16, [256], payload, iota
.tensor C, tsram, e4m3, [256], payload, values(1, -2, 448, 0.5)
.tensor W, tsram, i16, [256], payload, values(1, -2, 32767, -32768)
.tensor OUT, tsram, f32, [129], payload, zero
# from one element on, not aligned to a vector: 1 to 128 behind a zero
.expect OUT, iota
.tensor FEW, tsram, f32, [128], payload
# three lanes on, the others 0 and not what the register held
.expect FEW, values(4, 5, 6, 0)
.tensor WIDE, tsram, bf16, [256], payload
# 256 lanes of 16 bits
.expect WIDE, iota
.tensor BYTES, tsram, e4m3, [256], payload
# 256 lanes of 8 bits
.expect BYTES, values(1, -2, 448, 0.5)
.tensor WORDS, tsram, i16, [256], payload
.expect WORDS, values(1, -2, 32767, -32768)

    run_test

.kernel test
    sli s1, A
    vld.f32 v1, 4(s1)
    sli s2, OUT
    vst.f32 v1, 4(s2)
    sli s3, 3
    vwhile.f32 p1, s3
    vld.f32 v1, 16(s1) ?p1
    sli s2, FEW
    vst.f32 v1, 0(s2)
    sli s1, B + 512
    vld.bf16 v1, -512(s1)       # a negative offset
    sli s2, WIDE
    vst.bf16 v1, 0(s2)
    sli s1, C
    vld.e4m3 v1, 0(s1)
    sli s2, BYTES
    vst.e4m3 v1, 0(s2)
    sli s1, W
    vld.i16 v1, 0(s1)
    sli s2, WORDS
    vst.i16 v1, 0(s2)
    vret
