# sub: wrapping 64-bit subtraction.
.include "lib.inc"

# sub of \a and \b gives \want
.macro case a, b, want, code
    set r1, \a
    set r2, \b
    sub r3, r1, r2
    check_eq r3, \want, \code
.endm

.tile
    only_tile_0
    case 5, 3, 2, 1
    case 3, 5, -2, 2
    case 0, 1, -1, 3
    case 0x8000000000000000, 1, 0x7fffffffffffffff, 4                   # wraps to the largest
    case 0, 0x8000000000000000, 0x8000000000000000, 5                   # its own negative
    case 0x100000000, 1, 0xffffffff, 6                                  # all 64 bits take part

    set r1, 3                   # sources and destination may be the same
    sub r1, r1, r1
    check_eq r1, 0, 90
    set r2, 5
    sub r0, r2, r2             # r0 stays zero
    check_eq r0, 0, 91
    halt
