.endscope
.scope a
.tensor T, hbm, f32, [4], payload
.equ N, 1
.equ N, 2
.scope inner
.endscope
.tile
spot: j spto
spot: nop
1: nop
  vrun kernl, r1, 2
  li r1, TT
.reg x, r3
.kernel kernel
  vret
.scope                        # nested, and without a name
.endscope
.endscope
  nop
.tile
  j spot
  j a.spto
  j 1b
  mv x, r1
  li r1, T
.scope a
.tensor T, hbm, f32, [4], payload
.endscope
.scope 7
.equ N, 2
.endscope extra
.endscope
.scope a_name_that_is_far_too_long_to_stand_before_every_name_in_its_scope_because_it_has_more_than_a_hundred_and_twenty_eight_bytes_in_it
.endscope
.expect a.U, zero
.equ a.N, 3
.scope open
  nop
