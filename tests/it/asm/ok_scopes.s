# Names inside a scope are its own; those before it are seen; from outside they are called SCOPE.name.
.tensor IN, hbm, f32, [4], payload, iota
.equ N, 3
.set count, 1
.reg acc, r5
.macro bump
  addi acc, acc, N
.endm
.tile
start:
  li acc, IN
  nop
.scope first
.tensor IN, hbm, f32, [8], payload, zero      # not the one outside
.expect IN, zero
.tensor "odd name", hbm, i8, [2], control, at 0x400
.equ N, 8
.set count, count + N                         # first.count: 9; count outside stays 1
.const table, IN, start, loop
.reg acc, r7
.reg tmp, r8
.tile
start:                                        # first.start
  bump
  addi tmp, r0, count
1: li tmp, IN
  ldc tmp, table + 1
loop: dec acc
  bnez acc, loop
  beqz acc, 1b
  beqz acc, 1f
  j later                                     # further down, outside
1: vrun k, r1, 2
.L.hidden: j .L.hidden
.kernel k
done: vret
.endscope
.tile
  addi acc, acc, count                        # r5 and 1 again
  j start
  j first.start
  li r9, first.IN
  addi r9, r0, size(first.IN) + first.N
later:
.scope second
.macro bump
  dec acc
.endm
.tile                                         # follows the code above
  bump
  vrun k, r1, 2
  vrun first.k, r1, 2
  li r9, first.IN + size(IN)
1: j 1b
.kernel k
  smv s1, s2
done: vret
.endscope
.tile
  bump
  vrun second.k, r1, 2
  halt
# ---- expected ----
# .file "ok_scopes.s"
# .loc none
# .tensor IN, hbm, f32, [4], payload, iota, at 0x0
# .tensor first.IN, hbm, f32, [8], payload, zero, at 0x100
# .expect first.IN, zero
# .tensor "first.odd name", hbm, i8, [2], control, none, at 0x400
# .const _, 0x100, 0x2, 0x6
#
# .tile
# start:
#   .loc "ok_scopes.s", 11
#   li r5, 0
#   .loc "ok_scopes.s", 12
#   addi r0, r0, 0
# first.start:
#   .loc "ok_scopes.s", 24
#   addi r7, r7, 8
#   .loc "ok_scopes.s", 25
#   addi r8, r0, 9
# .L4:
#   .loc "ok_scopes.s", 26
#   li r8, 256
#   .loc "ok_scopes.s", 27
#   ldc r8, 1
# first.loop:
#   .loc "ok_scopes.s", 28
#   addi r7, r7, -1
#   .loc "ok_scopes.s", 29
#   bne r7, r0, first.loop
#   .loc "ok_scopes.s", 30
#   beq r7, r0, .L4
#   .loc "ok_scopes.s", 31
#   beq r7, r0, .L11
#   .loc "ok_scopes.s", 32
#   jal r0, later
# .L11:
#   .loc "ok_scopes.s", 33
#   vrun first.k, r1, 2
# .L12:
#   .loc "ok_scopes.s", 34
#   jal r0, .L12
#   .loc "ok_scopes.s", 39
#   addi r5, r5, 1
#   .loc "ok_scopes.s", 40
#   jal r0, start
#   .loc "ok_scopes.s", 41
#   jal r0, first.start
#   .loc "ok_scopes.s", 42
#   li r9, 256
#   .loc "ok_scopes.s", 43
#   addi r9, r0, 40
# later:
#   .loc "ok_scopes.s", 50
#   addi r5, r5, -1
#   .loc "ok_scopes.s", 51
#   vrun second.k, r1, 2
#   .loc "ok_scopes.s", 52
#   vrun first.k, r1, 2
#   .loc "ok_scopes.s", 53
#   li r9, 272
# .L22:
#   .loc "ok_scopes.s", 54
#   jal r0, .L22
#   .loc "ok_scopes.s", 60
#   addi r5, r5, 3
#   .loc "ok_scopes.s", 61
#   vrun second.k, r1, 2
#   .loc "ok_scopes.s", 62
#   halt
#
# .kernel first.k
# first.done:
#   .loc "ok_scopes.s", 36
#   vret
#
# .kernel second.k
#   .loc "ok_scopes.s", 56
#   saddi s1, s2, 0
# second.done:
#   .loc "ok_scopes.s", 57
#   vret
