# vret: the kernel ends when all its instructions have completed; its signals are made then. What stands behind it is not run.
.include "lib.inc"
.tensor OUT, tsram, i32, [128], control, values(-1)
.expect OUT, values(7)

.tile
    only_tile_0
    signal 0, 1
    vrun test, r0, 0
    sem.wait 0, 1
    li r1, OUT
    lw r2, 508(r1)              # the last lane is stored
    check_eq r2, 7, 1
    halt

.kernel test
    sli s1, 7
    vbc.i32 v1, s1
    sli s1, OUT
    vst.i32 v1, 0(s1)
    vret
    vxor v1, v1, v1
    vst.i32 v1, 0(s1)
    vret
