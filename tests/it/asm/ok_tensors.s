.equ N, 8
.tensor a, hbm, bf16, [N, N + 1], payload, normal(1)
.tensor b, hbm, e2m1, [3], payload              # 2 bytes at the next multiple of 256
.align 4
.tensor c, hbm, u8, [5], control, values(1, 2, -0.0, 1/8, inf, -nan, 1e-3)
.tensor far, hbm, f32, [4], payload, at 1 << 30
.tensor behind, hbm, f32, [4], payload          # goes behind the last of its memory
.tensor alias, hbm, f32, [2], payload, zero, at a + 4
.tensor s, tsram, f32, [16], payload, iota
.tensor t, tsram, f32, [], payload
.tensor u, csram, i32, [2, 2], control
.expect c, zero
.const table, a, s, size(a), elements(a), dim(a, 1), 0xffff_ffff_ffff_ffff, -1, end
.const more, 7
.const _, 8
.note plan, "two \"quoted\" words: # and // stay"
.tile
  la r1, s
  la r2, u + 4
  li r3, size(b)
  li r4, dim(a, 0) * dim(a, 1)
  ldc r5, table + 2(r6)
  ldc r5, more
  li r6, addr(far)
end:
  halt
