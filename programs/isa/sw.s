# sw: the low 32 bits of a register to the own SRAM, little endian, any alignment; the neighbours stay.
.include "lib.inc"
.tensor DATA, tsram, u8, [12], control, values(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
.expect DATA, values(1, 0xef, 0xcd, 0xab, 0x89, 6, 7, 8, 0xff, 0xff, 0xff, 0xff)

.tile
    only_tile_0
    li r1, DATA
    set r2, 0x0123456789abcdef
    sw r2, 1(r1)                # not aligned
    addi r1, r1, 12
    li r2, -1
    sw r2, -4(r1)
    halt
