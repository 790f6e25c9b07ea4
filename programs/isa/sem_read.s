# sem.read: the value of one of the own unit's semaphores, which stays as it is.
.include "lib.inc"

.tile
    only_tile_0
    sem.read r1, 80             # all start at zero
    check_eq r1, 0, 1
    sem.post r0, 80, 255
    sem.wait 80, 5              # the post has arrived
    sem.read r1, 80
    check_eq r1, 250, 2
    li r2, 78
    sem.read r1, 2(r2)          # reading took nothing
    check_eq r1, 250, 3
    sem.read r0, 80             # r0 stays zero
    check_eq r0, 0, 4
    halt
