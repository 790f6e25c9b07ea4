# lw: 32 bits of the own SRAM, sign-extended, little endian, any alignment.
.include "lib.inc"
.tensor DATA, tsram, u8, [16], control, values(0x78, 0x56, 0x34, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1, 2, 3, 0x84)

.tile
    only_tile_0
    li r1, DATA
    lw r2, 0(r1)                # the first byte is the lowest
    check_eq r2, 0x12345678, 1
    lw r2, 4(r1)
    check_eq r2, -1, 2
    lw r2, 8(r1)
    check_eq r2, 0x7fffffff, 3
    lw r2, 12(r1)               # bit 31 fills the upper half
    check_eq r2, 0xffffffff84030201, 4
    lw r2, 1(r1)                # not aligned
    check_eq r2, 0xffffffffff123456, 5
    addi r1, r1, 16
    lw r2, -16(r1)
    check_eq r2, 0x12345678, 6
    halt
