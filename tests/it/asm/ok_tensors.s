.equ N, 8
.tensor a, hbm, bf16, [N, N + 1], payload, normal(1)
.tensor b, hbm, e2m1, [3], payload              # 2 bytes at the next multiple of 256
.align 4
.tensor c, hbm, u8, [5], control, values(1, 2, -0.0, 1/8, inf, -nan, 1e-3)
.tensor far, hbm, f32, [4], payload, at 1 << 30
.tensor behind, hbm, f32, [4], payload          # goes behind the last of its memory
.tensor rows, hbm, e2m3, [3, 5], payload, pitch 6    # 3 rows of 4 bytes, 6 apart
.tensor alias, hbm, f32, [2], payload, zero, at a + 4
.tensor s, tsram, f32, [16], payload, iota
.tensor t, tsram, f32, [], payload
.tensor u, csram, i32, [2, 2], control
.expect c, zero
.const table, a, s, size(a), elements(a), dim(a, 1), 0xffff_ffff_ffff_ffff, -1
.const more, 7
.const _, 8
.note plan, "two \"quoted\" words: # and // stay"
.tile
.const jumps, end, end - start
start:
  la r1, s
  la r2, u + 4
  li r3, size(b)
  li r4, dim(a, 0) * dim(a, 1)
  ldc r5, table + 2(r6)
  ldc r5, more
  li r6, addr(far)
  li r7, size(rows)
end:
  halt
# ---- expected ----
# .file "ok_tensors.s"
# .loc none
# .note plan, "two \"quoted\" words: # and // stay"
# .tensor a, hbm, bf16, [8, 9], payload, normal(0x1), at 0x0
# .tensor b, hbm, e2m1, [3], payload, none, at 0x100
# .tensor c, hbm, u8, [5], control, values(1.0, 2.0, -0.0, 0.125, inf, nan, 0.001), at 0x104
# .expect c, zero
# .tensor far, hbm, f32, [4], payload, none, at 0x40000000
# .tensor behind, hbm, f32, [4], payload, none, at 0x40000100
# .tensor rows, hbm, e2m3, [3, 5], payload, none, at 0x40000200, pitch 6
# .tensor alias, hbm, f32, [2], payload, zero, at 0x4
# .tensor s, tsram, f32, [16], payload, iota, at 0x0
# .tensor t, tsram, f32, [], payload, none, at 0x100
# .tensor u, csram, i32, [2, 2], control, none, at 0x0
# .const _, 0x0, 0x40000000000, 0x90, 0x48
# .const _, 0x9, 0xffffffffffffffff, 0xffffffffffffffff, 0x7
# .const _, 0x8, 0x8, 0x8
#
# .tile
# start:
#   .loc "ok_tensors.s", 21
#   li r1, 4398046511104
#   .loc "ok_tensors.s", 22
#   li r2, 3298534883332
#   .loc "ok_tensors.s", 23
#   li r3, 2
#   .loc "ok_tensors.s", 24
#   li r4, 72
#   .loc "ok_tensors.s", 25
#   ldc r5, 2(r6)
#   .loc "ok_tensors.s", 26
#   ldc r5, 7
#   .loc "ok_tensors.s", 27
#   li r6, 1073741824
#   .loc "ok_tensors.s", 28
#   li r7, 18
# end:
#   .loc "ok_tensors.s", 30
#   halt
