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
# ---- expected ----
# error: `.endscope` without `.scope`
#  --> err_scopes.s:1:1
#   |
# 1 | .endscope
#   | ^^^^^^^^^
#
# error: `N` is already defined
#  --> err_scopes.s:5:6
#   |
# 5 | .equ N, 2
#   |      ^
#
# error: scope inside scope `a`, which is still open: scopes do not nest
#  --> err_scopes.s:6:1
#   |
# 6 | .scope inner
#   | ^^^^^^
#
# error: undefined symbol `spto`
#  --> err_scopes.s:9:9
#   |
# 9 | spot: j spto
#   |         ^^^^
#   |
#   = help: did you mean `spot`?
#
# error: label `spot` is already defined
#   --> err_scopes.s:10:1
#    |
# 10 | spot: nop
#    | ^^^^^
#
# error: no kernel is called `kernl`
#   --> err_scopes.s:12:8
#    |
# 12 |   vrun kernl, r1, 2
#    |        ^^^^^
#    |
#    = help: did you mean `kernel`?
#
# error: undefined symbol `TT`
#   --> err_scopes.s:13:10
#    |
# 13 |   li r1, TT
#    |          ^^
#    |
#    = help: did you mean `T`?
#
# error: scope inside scope `a`, which is still open: scopes do not nest
#   --> err_scopes.s:17:1
#    |
# 17 | .scope                        # nested, and without a name
#    | ^^^^^^
#
# error: instruction outside a section
#   --> err_scopes.s:20:3
#    |
# 20 |   nop
#    |   ^^^
#    |
#    = help: begin with `.tile`, `.cluster`, `.chip` or `.kernel NAME`
#
# error: undefined symbol `spot`
#   --> err_scopes.s:22:5
#    |
# 22 |   j spot
#    |     ^^^^
#
# error: undefined symbol `a.spto`
#   --> err_scopes.s:23:5
#    |
# 23 |   j a.spto
#    |     ^^^^^^
#    |
#    = help: did you mean `a.spot`?
#
# error: no local label `1:` before this line in the section
#   --> err_scopes.s:24:5
#    |
# 24 |   j 1b
#    |     ^^
#
# error: `x` is no control register (r0 to r31)
#   --> err_scopes.s:25:6
#    |
# 25 |   mv x, r1
#    |      ^
#
# error: undefined symbol `T`
#   --> err_scopes.s:26:10
#    |
# 26 |   li r1, T
#    |          ^
#
# error: scope `a` is already defined
#   --> err_scopes.s:27:8
#    |
# 27 | .scope a
#    |        ^
#
# error: expected the scope's name, found `7`
#   --> err_scopes.s:30:8
#    |
# 30 | .scope 7
#    |        ^
#    |
#    = help: syntax: .scope NAME
#
# error: expected the end of the line, found `extra`
#   --> err_scopes.s:32:11
#    |
# 32 | .endscope extra
#    |           ^^^^^
#    |
#    = help: syntax: .endscope
#
# error: scope name of 131 bytes, more than 128
#   --> err_scopes.s:34:8
#    |
# 34 | ...pe a_name_that_is_far_too_long_to_stand_before_every_name_in_its_scope_because_it_has_more_than_a_hundred_and_twenty_eight_bytes_in_it
#    |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
#
# error: `a.U` is no tensor
#   --> err_scopes.s:36:9
#    |
# 36 | .expect a.U, zero
#    |         ^^^
#    |
#    = help: did you mean `a.T`?
#
# error: `a.N` is already defined
#   --> err_scopes.s:37:6
#    |
# 37 | .equ a.N, 3
#    |      ^^^
#
# error: scope `open` without `.endscope`
#   --> err_scopes.s:38:1
#    |
# 38 | .scope open
#    | ^^^^^^
#
