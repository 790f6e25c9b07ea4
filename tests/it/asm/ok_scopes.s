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
