# loop: a hardware loop. The body ends before the target; it runs as often as the register said on entry; 0 and less skip it.
.include "lib.inc"
.tensor OUT, tsram, i32, [6], payload
.expect OUT, values(5, 0, 0, 12, 3, 20)

    run_test

# Stores the low half of \r at OUT[\at].
.macro show r, at
    vbc.i32 v1, \r
    sli s13, OUT
    vst.i32 v1, 4 * \at(s13) ?p1
.endm

.kernel test
    sli s1, 1
    vwhile.i32 p1, s1

    sli s1, 5
    sli s2, 0
    loop s1, five
    saddi s2, s2, 1
five:
    show s2, 0                  # 5

    sli s2, 0
    loop s0, none
    saddi s2, s2, 1
none:
    show s2, 1                  # 0 times

    sli s1, -3
    sli s2, 0
    loop s1, negative
    saddi s2, s2, 1
negative:
    show s2, 2                  # -3: not at all

    sli s1, 3
    sli s3, 4
    sli s2, 0
    loop s1, nested
    loop s3, nested             # both bodies end here
    saddi s2, s2, 1
nested:
    show s2, 3                  # 3 * 4

    sli s1, 3
    sli s2, 0
    loop s1, fixed
    sli s1, 100                 # the count was taken on entry
    saddi s2, s2, 1
fixed:
    show s2, 4                  # 3

    sli s1, 2
    sli s2, 0
    loop s1, deep               # four loops deep, with something after the inner ones
    loop s1, 3f
    loop s1, 2f
    loop s1, 1f
    saddi s2, s2, 1
1:
    saddi s2, s2, 0
2:
    saddi s2, s2, 1
3:
    saddi s2, s2, 0
deep:
    show s2, 5                  # 2^4 in the innermost, 2^2 behind label 2
    vret
