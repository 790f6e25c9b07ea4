# sd: 64 bits to the own SRAM, little endian, any alignment; the neighbours stay.
.include "lib.inc"
.tensor DATA, tsram, u8, [20], control, values(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20)
.expect DATA, values(1, 0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x81, 10, 11, 12, 0, 0, 0, 0, 0, 0, 0, 0)

.tile
    only_tile_0
    li r1, DATA
    set r2, 0x8123456789abcdef
    sd r2, 1(r1)                # not aligned
    addi r1, r1, 20
    sd r0, -8(r1)
    halt
