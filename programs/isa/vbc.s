# vbc: broadcasts the low bits of a scalar register; lanes that are off keep what they had.
.include "lib.inc"
.tensor WORDS, tsram, i32, [128], payload
# the low 32 bits of 64
.expect WORDS, values(-0x76543211)
.tensor FLOATS, tsram, f32, [128], payload
.expect FLOATS, values(-1.5)
.tensor HALVES, tsram, i16, [256], payload
# the low 16 bits
.expect HALVES, values(-12817)
.tensor FEW, tsram, i32, [128], payload
.expect FEW, values(5, 5, -1985229329)

    run_test

.kernel test
    sli s2, 0x0123              # 0x01_2345_6789_abcdef in three steps
    smuli s2, s2, 1 << 24
    saddi s2, s2, 0x456789
    smuli s2, s2, 1 << 24
    saddi s2, s2, 0xabcdef
    vbc.i32 v1, s2
    sli s1, WORDS
    vst.i32 v1, 0(s1)
    sli s3, float(-1.5)
    vbc.f32 v2, s3
    sli s1, FLOATS
    vst.f32 v2, 0(s1)
    vbc.bf16 v2, s2
    sli s1, HALVES
    vst.i16 v2, 0(s1)
    sli s3, 2
    vwhile.i32 p1, s3
    sli s3, 5
    vbc.i32 v1, s3 ?p1
    sli s1, FEW
    vst.i32 v1, 0(s1)
    vret
