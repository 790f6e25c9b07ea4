# Contents byte by byte, in lines of any length.
.tensor W, hbm, bf16, [2, 2], payload
.data W, "803f 0040"
.data W, "40408040"
.tensor odd, hbm, e2m1, [3], payload, at 0x200
.data odd, "21 03"
.scope s
.tensor W, hbm, e2m3, [2, 5], control, pitch 7
.data W, "00112233445566 778899aabbccdd"
.endscope
.tile
  halt
# ---- expected ----
# .file "ok_data.s"
# .loc none
# .tensor W, hbm, bf16, [2, 2], payload, none, at 0x0
# .data W, "803f0040 40408040"
# .tensor odd, hbm, e2m1, [3], payload, none, at 0x200
# .data odd, "2103"
# .tensor s.W, hbm, e2m3, [2, 5], control, none, at 0x300, pitch 7
# .data s.W, "00112233 44556677 8899aabb ccdd"
#
# .tile
#   .loc "ok_data.s", 12
#   halt
