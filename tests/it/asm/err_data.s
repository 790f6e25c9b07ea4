.tensor A, hbm, u8, [4], payload
.data A, "0011"
.data A, "22"
.tensor B, hbm, u8, [4], payload, zero
.data B, "00"
.data C, "00"
.equ D, 1
.data D, "00"
.tensor E, hbm, u8, [2], payload
.data E, "0"
.data E, "0g"
.data E, 00
.data E, "00 11 22"

.tensor F, hbm, u8, [8], payload, data
# ---- expected ----
# error: 3 bytes of data for `A`, which has 4
#  --> err_data.s:2:7
#   |
# 2 | .data A, "0011"
#   |       ^
#
# error: `B` has its contents from its declaration
#  --> err_data.s:5:7
#   |
# 5 | .data B, "00"
#   |       ^
#
# error: no tensor above is called `C`
#  --> err_data.s:6:7
#   |
# 6 | .data C, "00"
#   |       ^
#
# error: no tensor above is called `D`
#  --> err_data.s:8:7
#   |
# 8 | .data D, "00"
#   |       ^
#
# error: an odd number of hexadecimal digits
#   --> err_data.s:10:10
#    |
# 10 | .data E, "0"
#    |          ^^^
#
# error: 'g' in data, which is pairs of hexadecimal digits
#   --> err_data.s:11:10
#    |
# 11 | .data E, "0g"
#    |          ^^^^
#
# error: expected a string, found `0`
#   --> err_data.s:12:10
#    |
# 12 | .data E, 00
#    |          ^^
#    |
#    = help: syntax: .data NAME, "HEX"
#
# error: 3 bytes of data for `E`, which has 2
#   --> err_data.s:13:10
#    |
# 13 | .data E, "00 11 22"
#    |          ^^^^^^^^^^
#
# error: `data` is no initial contents
#   --> err_data.s:15:35
#    |
# 15 | .tensor F, hbm, u8, [8], payload, data
#    |                                   ^^^^
#    |
#    = help: one of none, zero, iota, normal, values
#
