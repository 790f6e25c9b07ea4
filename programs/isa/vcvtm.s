# vcvtm: converts one group of elements with a stated rounding (rne, rtz, rna, sr) and overflow (saturate, ieee).
.include "lib.inc"
.tensor A, tsram, f32, [128], payload, values(1.0625, 1.1875, -1.1, 464, 1000, -1000, 5, 0)
# Random words: a fraction of a step of f rounds up where f * 2^32 + word carries out of 32 bits.
.tensor R, tsram, i32, [128], payload, values(0x7fffffff, -0x80000000, -1, -1, 0, 0, 0)
.tensor OUT, tsram, e4m3, [3, 8], payload
# E4M3 has steps of 0.125 at 1 and ends with 448; 464 is half way to the next.
#   rtz; rna: ties go away from zero; 464 saturates in each
#   sr: 1.0625 is half a step up, which 0x7fffffff does not carry; 1.1875 with 0x80000000 does; -1.1, 0.8 of a step, with -1 does
.expect OUT, values(1, 1.125, -1, 448, 448, -448, 5, 0, 1.125, 1.25, -1.125, 448, 448, -448, 5, 0, 1, 1.25, -1.125, 448, 448, -448, 5, 0)
.tensor OVER, tsram, u8, [2, 8], payload
# overflow to NaN, which is 7f: rne keeps the tie at 448 (7e), rna does not
.expect OVER, values(0x38, 0x3a, 0xb9, 0x7e, 0x7f, 0xff, 0x4a, 0, 0x39, 0x3a, 0xb9, 0x7f, 0x7f, 0xff, 0x4a, 0)
.tensor INF, tsram, u8, [8], payload
# E5M2 has an infinity: 7c
.tensor BIG, tsram, f32, [128], payload, values(57344, 65536, -1000000, 0)
.expect INF, values(0x7b, 0x7c, 0xfc, 0)
.tensor FP4, tsram, u8, [2, 8], payload
# one code a byte: 5 is half way between 4 (code 6) and 6 (code 7); -1.1 is code 10; 1.0625 and 1.1875 go to 1 (code 2)
.expect FP4, values(2, 2, 10, 7, 7, 15, 6, 0, 2, 2, 10, 7, 7, 15, 7, 0)
.tensor BACK, tsram, f32, [128], payload
# and back, one lane on
.expect BACK, values(4, 0)

    run_test

.kernel test
    sli s1, 8
    vwhile.bf16 p2, s1
    sli s1, A
    vld.f32 v1, 0(s1)
    sli s1, R
    vld.i32 v4, 0(s1)
    sli s1, OUT
    vcvtm.rtz.saturate.e4m3.f32 v2, v1, v0, 0, 0
    vst.e4m3 v2, 0(s1) ?p2
    vcvtm.rna.saturate.e4m3.f32 v2, v1, v0, 0, 0
    vst.e4m3 v2, 8(s1) ?p2
    vcvtm.sr.saturate.e4m3.f32 v2, v1, v4, 0, 0
    vst.e4m3 v2, 16(s1) ?p2

    sli s1, OVER
    vcvtm.rne.ieee.e4m3.f32 v2, v1, v0, 0, 0
    vst.u8 v2, 0(s1) ?p2
    vcvtm.rna.ieee.e4m3.f32 v2, v1, v0, 0, 0
    vst.u8 v2, 8(s1) ?p2
    sli s1, BIG
    vld.f32 v3, 0(s1)
    sli s1, INF
    vcvtm.rne.ieee.e5m2.f32 v2, v3, v0, 0, 0
    vst.u8 v2, 0(s1) ?p2

    sli s1, FP4
    vcvtm.rne.saturate.e2m1.f32 v2, v1, v0, 0, 0
    vst.u8 v2, 0(s1) ?p2
    vcvtm.rna.saturate.e2m1.f32 v3, v1, v0, 1, 0
    vcvtm.rne.saturate.e2m1.e2m1 v3, v3, v0, 0, 1
    vst.u8 v3, 8(s1) ?p2
    # Lane 0 of a group that starts with code 6 and upper bits set.
    sli s2, 0xf6f6
    vbc.bf16 v2, s2
    sli s2, 1
    vwhile.f32 p1, s2
    vcvtm.rtz.saturate.f32.e2m1 v5, v2, v0, 0, 1 ?p1
    sli s1, BACK
    vst.f32 v5, 0(s1)
    vret
