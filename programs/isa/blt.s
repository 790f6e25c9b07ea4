# blt: branch if less as signed numbers.
.include "lib.inc"

.macro taken a, b, code
    set r1, \a
    set r2, \b
    blt r1, r2, to_\@
    trap \code
to_\@:
.endm

.macro not_taken a, b, code
    set r1, \a
    set r2, \b
    blt r1, r2, to_\@
    j on_\@
to_\@:
    trap \code
on_\@:
.endm

.tile
    only_tile_0
    taken 1, 2, 1
    taken -1, 1, 2
    taken 0x8000000000000000, 0x7fffffffffffffff, 3
    taken -3, -2, 4
    not_taken 2, 1, 50
    not_taken 2, 2, 51
    not_taken 1, -1, 52
    not_taken 0x7fffffffffffffff, 0x8000000000000000, 53
    # Backwards: taken once, then not.
    li r3, 0
    set r1, 1
    set r2, 2
    j test
again:
    inc r3
    set r1, 2
    set r2, 1
test:
    blt r1, r2, again
    check_eq r3, 1, 99
    halt
