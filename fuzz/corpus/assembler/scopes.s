.tensor t, hbm, f32, [4], payload, zero
.scope a
.tensor t, hbm, f32, [4], payload, iota
.reg x, r3
.tile
l: li x, t
1: bnez x, 1b
 vrun k, r1, 1
.kernel k
 vret
.endscope
.tile
 j a.l
.scope b
.tile
l: vrun a.k, r1, 1
 halt
.endscope
