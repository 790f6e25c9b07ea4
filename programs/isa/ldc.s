# ldc: a 64-bit word of the constant table; index register and immediate count words.
.include "lib.inc"
.const TABLE, 11, -22, 0x8000000000000000, 44

.tile
    only_tile_0
    li r1, 0
    ldc r2, TABLE(r1)
    addi r3, r2, -11
    bnez r3, wrong
    li r1, 1
    ldc r2, TABLE(r1)
    addi r3, r2, 22
    bnez r3, wrong
    ldc r2, TABLE + 2           # without a register; all 64 bits
    shri r3, r2, 63
    addi r3, r3, -1
    bnez r3, wrong
    shli r3, r2, 1
    bnez r3, wrong
    li r1, TABLE + 5
    ldc r2, -2(r1)              # a negative offset
    addi r3, r2, -44
    bnez r3, wrong
    halt
wrong:
    trap 1
