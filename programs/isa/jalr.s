# jalr: jump to a register plus an immediate and keep the address of the next word; both count words.
.include "lib.inc"

.tile
    only_tile_0
    li r1, target - 3
    jalr r2, 3(r1)              # an offset forward
link:
    trap 1
target:
    li r3, link
    bne r2, r3, wrong
    li r1, last + 5
    jalr r1, -5(r1)             # backward, and the target is read before the link is written
same:
    trap 2
last:
    li r3, same
    bne r1, r3, wrong
    li r4, end
    jalr r0, 0(r4)
    trap 3
end:
    check_eq r0, 0, 4           # r0 stays zero
    halt
wrong:
    trap 5
