# or: bitwise or.
.include "lib.inc"

# or of \a and \b gives \want
.macro case a, b, want, code
    set r1, \a
    set r2, \b
    or r3, r1, r2
    check_eq r3, \want, \code
.endm

.tile
    only_tile_0
    case 12, 10, 14, 1
    case 0, 0x123456789abcdef0, 0x123456789abcdef0, 2
    case -1, 0, -1, 3
    case 0x8000000000000000, 1, 0x8000000000000001, 4                   # bit 63

    set r1, 3                   # sources and destination may be the same
    or r1, r1, r1
    check_eq r1, 3, 90
    set r2, 5
    or r0, r2, r2             # r0 stays zero
    check_eq r0, 0, 91
    halt
