# remu: unsigned remainder.
.include "lib.inc"

# remu of \a and \b gives \want
.macro case a, b, want, code
    set r1, \a
    set r2, \b
    remu r3, r1, r2
    check_eq r3, \want, \code
.endm

.tile
    only_tile_0
    case 42, 5, 2, 1
    case 4, 5, 4, 2
    case -1, 10, 5, 3                                                   # 2^64 - 1 is no negative number
    case 5, -1, 5, 4
    case 40, 5, 0, 5
    case 0x8000000000000000, 3, 2, 6

    set r1, 3                   # sources and destination may be the same
    remu r1, r1, r1
    check_eq r1, 0, 90
    set r2, 5
    remu r0, r2, r2             # r0 stays zero
    check_eq r0, 0, 91
    halt
