# shl: shift left by the low 6 bits of the second source.
.include "lib.inc"

# shl of \a and \b gives \want
.macro case a, b, want, code
    set r1, \a
    set r2, \b
    shl r3, r1, r2
    check_eq r3, \want, \code
.endm

.tile
    only_tile_0
    case 1, 0, 1, 1
    case 3, 4, 48, 2
    case 1, 63, 0x8000000000000000, 3
    case 3, 63, 0x8000000000000000, 4                                   # the upper bit is lost
    case 3, 64, 3, 5                                                    # 64 is 0: six bits count
    case 3, -1, 0x8000000000000000, 6                                   # -1 is 63

    set r1, 3                   # sources and destination may be the same
    shl r1, r1, r1
    check_eq r1, 24, 90
    set r2, 5
    shl r0, r2, r2             # r0 stays zero
    check_eq r0, 0, 91
    halt
