.equ N, (3 + 4) * 2 - -1 << 2
.set i, 0
.macro pair r, by=2
    addi \r, \r, \by
    bnez \r, skip_\@
    nop
skip_\@:
.endm
.tensor "odd name", hbm, e2m1, [N, 2], payload, values(1.5, -6, 0x7), at 0x1000
.align 64
.tensor T, tsram, f32, [4], payload, iota
.if defined(N) && N > 3
.tile
    .reg count, r5
    li count, size(T) + dim(T, 0) - elements(T)
.rept 3
    pair count, by=i
.set i, i + 1
.endr
1:  dec count
    bnez count, 1b
    li r6, float(1.0 / 3)
    call f
    j 2f
f:  ret
2:  halt
.else
.chip
    trap 1
.endif
.loc "other.s", 7
.kernel k
    smv s1, s2
    vret
