# slti: 1 if less than an immediate as signed numbers, else 0.
.include "lib.inc"

# slti of \a and the immediate \b gives \want
.macro case a, b, want, code
    set r1, \a
    slti r2, r1, \b
    check_eq r2, \want, \code
.endm

.tile
    only_tile_0
    case 1, 2, 1, 1
    case 2, 1, 0, 2
    case 2, 2, 0, 3                                                     # equal is not less
    case -1, 1, 1, 4
    case 1, -1, 0, 5
    case 0x8000000000000000, 0xffffffff80000000, 1, 6                   # the immediate is sign-extended
    case 0x7fffffffffffffff, 0x7fffffff, 0, 7                           # all 64 bits take part
    case 0x10000000000, 5, 0, 8

    set r1, 3                   # source and destination may be the same
    slti r1, r1, 1
    check_eq r1, 0, 90
    slti r0, r1, 1              # r0 stays zero
    check_eq r0, 0, 91
    halt
