# ld: 64 bits of the own SRAM, little endian, any alignment.
.include "lib.inc"
.tensor DATA, tsram, u8, [16], control, values(0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x81, 1, 2, 3, 4, 5, 6, 7, 8)

.tile
    only_tile_0
    li r1, DATA
    ld r2, 0(r1)                # the first byte is the lowest
    check_eq r2, 0x8123456789abcdef, 1
    ld r2, 8(r1)
    check_eq r2, 0x0807060504030201, 2
    ld r2, 3(r1)                # not aligned
    check_eq r2, 0x0302018123456789, 3
    addi r1, r1, 16
    ld r2, -8(r1)
    check_eq r2, 0x0807060504030201, 4
    halt
