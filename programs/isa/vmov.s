# vmov: copies a register, all 512 bytes whatever they mean.
.include "lib.inc"
.tensor A, tsram, i16, [256], payload, iota
.tensor OUT, tsram, i16, [256], payload
.expect OUT, iota

    run_test

.kernel test
    sli s1, A
    vld.i16 v1, 0(s1)
    vmov v2, v1
    vxor v1, v1, v1             # the copy is one
    sli s1, OUT
    vst.i16 v2, 0(s1)
    vret
