# vldb: loads one element into every active lane; lanes that are off become 0.
.include "lib.inc"
.tensor A, tsram, f32, [4], payload, values(1, 2.5, -3)
.tensor B, tsram, u8, [4], payload, values(7, 8, 9)
.tensor ALL, tsram, f32, [128], payload
.expect ALL, values(2.5)
.tensor FEW, tsram, f32, [128], payload
.expect FEW, values(-3, -3, 0)
.tensor BYTES, tsram, u8, [256], payload
.expect BYTES, values(9)

    run_test

.kernel test
    sli s1, A
    vldb.f32 v1, 4(s1)
    sli s2, ALL
    vst.f32 v1, 0(s2)
    sli s3, 2
    vwhile.f32 p1, s3
    vldb.f32 v1, 8(s1) ?p1
    sli s2, FEW
    vst.f32 v1, 0(s2)
    sli s1, B
    vldb.u8 v1, 2(s1)
    sli s2, BYTES
    vst.u8 v1, 0(s2)
    vret
