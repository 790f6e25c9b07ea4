# vcvt: converts one group of 128 elements, to nearest even, saturating. A type of up to 16 bits has two groups in a register; all else of the destination is kept.
.include "lib.inc"
.tensor A, tsram, f32, [128], payload, values(1, 1.0625, 1.1875, -2.5, -3.5, 449, -1000, 300.7)
.tensor I, tsram, i32, [128], payload, values(5, -300, 70000, -70000)
.tensor F8, tsram, e4m3, [8], payload
# into group 0 of E4M3; eight lanes stored
.expect F8, values(1, 1, 1.25, -2.5, -3.5, 448, -448, 288)
.tensor F8_REST, tsram, f32, [128], payload
# group 1 keeps 9
.expect F8_REST, values(9)
.tensor BF, tsram, f32, [128], payload
# into group 1 of BF16, and back from there
.expect BF, values(1, 1.0625, 1.1875, -2.5, -3.5, 448, -1000, 300)
.tensor BF_REST, tsram, f32, [128], payload
# group 0 keeps 9
.expect BF_REST, values(9)
.tensor INT, tsram, i8, [8], payload
# to integers: to even, saturating
.expect INT, values(1, 1, 1, -2, -4, 127, -128, 127)
.tensor SHORT, tsram, i16, [8], payload
# between integers
.expect SHORT, values(5, -300, 32767, -32768)
.tensor FEW, tsram, f32, [128], payload
# two lanes on: the others keep 1
.expect FEW, values(5, -300, 1)

    run_test

.kernel test
    sli s1, 8
    vwhile.bf16 p2, s1
    sli s1, A
    vld.f32 v1, 0(s1)
    sli s2, 0x5151              # 9 in E4M3, twice
    vbc.bf16 v2, s2
    vcvt.e4m3.f32 v2, v1, 0, 0
    sli s1, F8
    vst.e4m3 v2, 0(s1) ?p2
    vcvt.f32.e4m3 v3, v2, 0, 1
    sli s1, F8_REST
    vst.f32 v3, 0(s1)

    sli s2, 0x4110              # 9 in BF16
    vbc.bf16 v2, s2
    vcvt.bf16.f32 v2, v1, 1, 0
    vcvt.f32.bf16 v3, v2, 0, 1
    sli s1, BF
    vst.f32 v3, 0(s1)
    vcvt.f32.bf16 v3, v2, 0, 0
    sli s1, BF_REST
    vst.f32 v3, 0(s1)

    vcvt.i8.f32 v2, v1, 0, 0
    sli s1, INT
    vst.i8 v2, 0(s1) ?p2

    sli s1, I
    vld.i32 v2, 0(s1)
    vcvt.i16.i32 v3, v2, 0, 0
    sli s1, SHORT
    vst.i16 v3, 0(s1) ?p2

    sli s2, 2
    vwhile.f32 p1, s2
    sli s2, float(1)
    vbc.f32 v3, s2
    vcvt.f32.i32 v3, v2, 0, 0 ?p1
    sli s1, FEW
    vst.f32 v3, 0(s1)
    vret
