# slt: 1 if less as signed numbers, else 0.
.include "lib.inc"

# slt of \a and \b gives \want
.macro case a, b, want, code
    set r1, \a
    set r2, \b
    slt r3, r1, r2
    check_eq r3, \want, \code
.endm

.tile
    only_tile_0
    case 1, 2, 1, 1
    case 2, 1, 0, 2
    case 2, 2, 0, 3                                                     # equal is not less
    case -1, 1, 1, 4
    case 1, -1, 0, 5
    case 0x8000000000000000, 0x7fffffffffffffff, 1, 6
    case 0x7fffffffffffffff, 0x8000000000000000, 0, 7

    set r1, 3                   # sources and destination may be the same
    slt r1, r1, r1
    check_eq r1, 0, 90
    set r2, 5
    slt r0, r2, r2             # r0 stays zero
    check_eq r0, 0, 91
    halt
