# bne: branch if not equal, all 64 bits.
.include "lib.inc"

.macro taken a, b, code
    set r1, \a
    set r2, \b
    bne r1, r2, to_\@
    trap \code
to_\@:
.endm

.macro not_taken a, b, code
    set r1, \a
    set r2, \b
    bne r1, r2, to_\@
    j on_\@
to_\@:
    trap \code
on_\@:
.endm

.tile
    only_tile_0
    taken 5, 6, 1
    taken 0, 0x8000000000000000, 2
    taken 5, 0x100000005, 3
    not_taken 5, 5, 50
    not_taken 0, 0, 51
    not_taken -1, -1, 52
    # Backwards: taken once, then not.
    li r3, 0
    set r1, 5
    set r2, 6
    j test
again:
    inc r3
    set r1, 5
    set r2, 5
test:
    bne r1, r2, again
    check_eq r3, 1, 99
    halt
