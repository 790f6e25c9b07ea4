# li: a sign-extended 48-bit immediate. The constant table (`ldc`) holds the same numbers in 64 bits, to compare with.
.include "lib.inc"

.macro case value, code
    li r1, \value
    check_eq r1, \value, \code
.endm

.tile
    only_tile_0
    case 0, 1
    case -1, 2
    case 0x7fffffffffff, 3                  # the largest, 2^47 - 1
    case -0x800000000000, 4                 # the least
    case 0x40000000100, 5                   # an address in the own SRAM
    li r0, 7                                # r0 stays zero
    check_eq r0, 0, 6
    halt
