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
