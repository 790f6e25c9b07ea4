# add: wrapping 64-bit addition.
.include "lib.inc"

# add of \a and \b gives \want
.macro case a, b, want, code
    set r1, \a
    set r2, \b
    add r3, r1, r2
    check_eq r3, \want, \code
.endm

.tile
    only_tile_0
    case 2, 3, 5, 1
    case -5, 3, -2, 2
    case -1, 1, 0, 3                                                    # carries out of bit 63 are lost
    case 0x7fffffffffffffff, 1, 0x8000000000000000, 4                   # wraps to the least
    case 0x8000000000000000, 0x8000000000000000, 0, 5
    case 0xffffffff, 1, 0x100000000, 6                                  # all 64 bits take part

    set r1, 3                   # sources and destination may be the same
    add r1, r1, r1
    check_eq r1, 6, 90
    set r2, 5
    add r0, r2, r2             # r0 stays zero
    check_eq r0, 0, 91
    halt
