# xor: bitwise exclusive or.
.include "lib.inc"

# xor of \a and \b gives \want
.macro case a, b, want, code
    set r1, \a
    set r2, \b
    xor r3, r1, r2
    check_eq r3, \want, \code
.endm

.tile
    only_tile_0
    case 12, 10, 6, 1
    case -1, 0x123456789abcdef0, 0xedcba9876543210f, 2
    case 0x8000000000000000, 0x8000000000000000, 0, 3
    case 0x8000000000000000, 1, 0x8000000000000001, 4                   # bit 63

    set r1, 3                   # sources and destination may be the same
    xor r1, r1, r1
    check_eq r1, 0, 90
    set r2, 5
    xor r0, r2, r2             # r0 stays zero
    check_eq r0, 0, 91
    halt
