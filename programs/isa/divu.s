# divu: unsigned quotient, rounded down.
.include "lib.inc"

# divu of \a and \b gives \want
.macro case a, b, want, code
    set r1, \a
    set r2, \b
    divu r3, r1, r2
    check_eq r3, \want, \code
.endm

.tile
    only_tile_0
    case 42, 5, 8, 1
    case 4, 5, 0, 2
    case -1, 2, 0x7fffffffffffffff, 3                                   # 2^64 - 1 is no negative number
    case -1, -1, 1, 4
    case 5, -1, 0, 5
    case 0x8000000000000000, 1, 0x8000000000000000, 6

    set r1, 3                   # sources and destination may be the same
    divu r1, r1, r1
    check_eq r1, 1, 90
    set r2, 5
    divu r0, r2, r2             # r0 stays zero
    check_eq r0, 0, 91
    halt
