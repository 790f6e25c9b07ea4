# lbu: a byte of the own SRAM, zero-extended.
.include "lib.inc"
.tensor DATA, tsram, u8, [8], control, values(0, 1, 127, 128, 255, 16)

.tile
    only_tile_0
    li r1, DATA
    lbu r2, 0(r1)
    check_eq r2, 0, 1
    lbu r2, 2(r1)
    check_eq r2, 127, 2
    lbu r2, 3(r1)               # no sign extension
    check_eq r2, 128, 3
    addi r1, r1, 8
    lbu r2, -4(r1)              # a negative offset
    check_eq r2, 255, 4
    lbu r2, -1(r1)
    check_eq r2, 16, 5
    halt
