# max: the larger of two signed numbers.
.include "lib.inc"

# max of \a and \b gives \want
.macro case a, b, want, code
    set r1, \a
    set r2, \b
    max r3, r1, r2
    check_eq r3, \want, \code
.endm

.tile
    only_tile_0
    case 1, 2, 2, 1
    case 2, 1, 2, 2
    case -1, 1, 1, 3
    case 0x8000000000000000, 0x7fffffffffffffff, 0x7fffffffffffffff, 4
    case -3, -2, -2, 5

    set r1, 3                   # sources and destination may be the same
    max r1, r1, r1
    check_eq r1, 3, 90
    set r2, 5
    max r0, r2, r2             # r0 stays zero
    check_eq r0, 0, 91
    halt
