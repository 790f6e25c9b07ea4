# sb: the low byte of a register to the own SRAM; its neighbours stay.
.include "lib.inc"
.tensor DATA, tsram, u8, [6], control, values(1, 2, 3, 4, 5, 6)
.expect DATA, values(1, 0xef, 3, 0, 5, 0xff)

.tile
    only_tile_0
    li r1, DATA
    set r2, 0x0123456789abcdef
    sb r2, 1(r1)
    sb r0, 3(r1)
    addi r1, r1, 6
    li r2, -1
    sb r2, -1(r1)
    halt
