# sra: arithmetic shift right by the low 6 bits of the second source.
.include "lib.inc"

# sra of \a and \b gives \want
.macro case a, b, want, code
    set r1, \a
    set r2, \b
    sra r3, r1, r2
    check_eq r3, \want, \code
.endm

.tile
    only_tile_0
    case 48, 4, 3, 1
    case 0x8000000000000000, 63, -1, 2                                  # the sign comes in
    case -5, 1, -3, 3                                                   # rounds down, to -3
    case 0x7fffffffffffffff, 62, 1, 4
    case -7, 64, -7, 5                                                  # 64 is 0: six bits count
    case -7, -1, -1, 6                                                  # -1 is 63

    set r1, 3                   # sources and destination may be the same
    sra r1, r1, r1
    check_eq r1, 0, 90
    set r2, 5
    sra r0, r2, r2             # r0 stays zero
    check_eq r0, 0, 91
    halt
