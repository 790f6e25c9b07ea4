"""Makes the test vectors of this folder, with implementations that share nothing with the crate.

    pip install ml_dtypes==0.6.0 gfloat==0.5.2 numpy && python make.py

decode.txt: `format hex..`: the f32 bits of every code in order, by ml_dtypes; every 61st code of the 16-bit formats.
round.txt:  `format mode overflow`, a line of f32 bits, a line of codes. RNE with `ieee` overflow is ml_dtypes (its casts do not
            saturate), everything else is gfloat. In E8M0 every line is gfloat, which ties to the even code.
dot.txt:    `a b a_scale b_scale acc result`, codes concatenated, by rational arithmetic from the definition (no library).
Where the two disagree with each other or with the documented rule, the input is left out here and is a case in the crate's own
tests: NaN and overflow into FP4 and FP6 and NaN payloads, zero and what is below 2^-127 or overflows in E8M0, ties in E8M0.
"""
import random
from fractions import Fraction
from pathlib import Path

import gfloat
import ml_dtypes
import numpy as np
from gfloat import formats as gf

HERE = Path(__file__).parent
RNG = random.Random(20260101)
NAMES = {  # name: (ml_dtypes, gfloat, bits)
    "bf16": (ml_dtypes.bfloat16, gf.format_info_bfloat16, 16),
    "f16": (np.float16, gf.format_info_binary16, 16),
    "e4m3": (ml_dtypes.float8_e4m3fn, gf.format_info_ocp_e4m3, 8),
    "e5m2": (ml_dtypes.float8_e5m2, gf.format_info_ocp_e5m2, 8),
    "e2m1": (ml_dtypes.float4_e2m1fn, gf.format_info_ocp_e2m1, 4),
    "e3m2": (ml_dtypes.float6_e3m2fn, gf.format_info_ocp_e3m2, 6),
    "e2m3": (ml_dtypes.float6_e2m3fn, gf.format_info_ocp_e2m3, 6),
    "e8m0": (ml_dtypes.float8_e8m0fnu, gf.format_info_ocp_e8m0, 8),
}
MODES = {"rne": gfloat.RoundMode.TiesToEven, "rtz": gfloat.RoundMode.TowardZero, "rna": gfloat.RoundMode.TiesToAway,
         "stochastic": gfloat.RoundMode.StochasticFastest}
WORD = 0x9E3779B9  # of the stochastic lines


def bits_of(x):
    return int(np.float32(x).view(np.uint32))


def codes_of(name, codes):
    dtype, _, bits = NAMES[name]
    raw = np.array(codes, np.uint16 if bits == 16 else np.uint8).view(dtype)
    return raw.astype(np.float32)


def decode():
    lines = []
    for name, (_, _, bits) in NAMES.items():
        values = codes_of(name, range(0, 1 << bits, 61 if bits == 16 else 1))
        words = ["7fc00000" if np.isnan(v) else f"{bits_of(v):08x}" for v in values]
        lines.append(f"{name} {''.join(words)}")
    (HERE / "decode.txt").write_text("\n".join(lines) + "\n")


def inputs(name):
    """Every code (some of 16 bits), the middle to the next one, and the neighbours of both; and random values."""
    bits = NAMES[name][2]
    codes = range(0, 1 << bits, 977) if bits == 16 else range(1 << bits)
    out = set()
    for code in codes:
        pair = codes_of(name, [code, min(code + 1, (1 << bits) - 1)])
        if not np.all(np.isfinite(pair)):
            continue
        for x in (pair[0], np.float32((np.float64(pair[0]) + np.float64(pair[1])) / 2)):
            out |= {bits_of(np.nextafter(x, np.float32(d))) for d in (-np.inf, np.inf)} | {bits_of(x)}
    top = float(np.nanmax(np.where(np.isfinite(v := codes_of(name, range(1 << bits))), v, 0)))
    for _ in range(150):
        out.add(bits_of(RNG.uniform(-1.2, 1.2) * min(top, 2.0**126)))
        out.add(bits_of(RNG.choice((-1, 1)) * 2.0 ** RNG.uniform(-20, 20)))
    return sorted(out)


def round_one(name, word, mode, overflow):
    """The code, or None where no oracle speaks."""
    dtype, info, bits = NAMES[name]
    x = np.uint32(word).view(np.float32)
    if not np.isfinite(x):
        return None
    if name == "e8m0" and not 2.0**-127 <= x:
        return None
    if mode == "rne" and overflow == "ieee" and name not in ("e8m0", "e2m1", "e3m2", "e2m3"):
        with np.errstate(over="ignore"):
            return int(x.astype(dtype).view(np.uint16 if bits == 16 else np.uint8))
    try:
        random_bits = {"srbits": WORD, "srnumbits": 32} if mode == "stochastic" else {}
        value = gfloat.round_float(info, float(x), MODES[mode], sat=overflow == "saturate", **random_bits)
        if np.isnan(value) or (name == "e8m0" and not np.isfinite(value)):
            return None
        return gfloat.encode_float(info, value)
    except ValueError:
        return None


def rounding():
    lines = []
    for name, (_, _, bits) in NAMES.items():
        words = inputs(name)
        for mode in MODES:
            for overflow in ("saturate", "ieee"):
                if mode in ("rna", "stochastic") and overflow == "ieee":
                    continue
                pairs = [(w, round_one(name, w, mode, overflow)) for w in words[:: 1 if mode == "rne" else 3]]
                pairs = [(w, c) for w, c in pairs if c is not None]
                lines.append(f"{name} {mode} {overflow}")
                lines.append("".join(f"{w:08x}" for w, _ in pairs))
                lines.append("".join(f"{c:0{(bits + 3) // 4}x}" for _, c in pairs))
    (HERE / "round.txt").write_text("\n".join(lines) + "\n")


def to_f32(value):
    """RNE of a rational, by integers."""
    if value == 0:
        return np.float32(0)
    magnitude, exponent = abs(value), -149
    while magnitude >= Fraction(2) ** (exponent + 24):
        exponent += 1
    units = magnitude / Fraction(2) ** exponent
    whole = round(units)  # ties to even
    if whole * Fraction(2) ** exponent >= Fraction(2) ** 128:
        return np.float32(np.inf if value > 0 else -np.inf)
    return np.float32(np.ldexp(np.float64(whole), exponent) * (1 if value > 0 else -1))


def dot():
    lines = []
    kinds = ["e4m3", "e5m2", "e2m1", "e3m2", "e2m3"]
    pairs = [(a, b) for a in kinds for b in kinds]
    for a, b in pairs * 3 + [("nvfp4", "nvfp4")] * 30:
        nv = a == "nvfp4"
        ta, tb = ("e2m1", "e2m1") if nv else (a, b)
        length = RNG.choice((32, 32, 32, 17, 5))

        def block(t):
            codes = []
            while len(codes) < length:
                code = RNG.randrange(1 << NAMES[t][2])
                if np.isfinite(codes_of(t, [code])[0]):
                    codes.append(code)
            return codes

        ca, cb = block(ta), block(tb)
        if nv:
            sa, sb = ([RNG.randrange(0x7F) for _ in range(2)] for _ in range(2))
            scale = [Fraction(float(codes_of("e4m3", [x])[0])) * Fraction(float(codes_of("e4m3", [y])[0])) for x, y in zip(sa, sb)]
        else:
            sa, sb = ([RNG.choice((RNG.randrange(255), RNG.randrange(110, 140)))] for _ in range(2))
            scale = [Fraction(2) ** (sa[0] + sb[0] - 254)] * 2
        xs, ys = (codes_of(t, c) for t, c in ((ta, ca), (tb, cb)))
        total = sum(Fraction(float(x)) * Fraction(float(y)) * scale[i // 16] for i, (x, y) in enumerate(zip(xs, ys)))
        acc = np.float32(RNG.choice((0.0, RNG.gauss(0, 100), RNG.gauss(0, 1e-3))))
        with np.errstate(over="ignore"):
            result = acc + to_f32(total)
        hexes = ["".join(f"{c:02x}" for c in codes) for codes in (ca, cb, sa, sb)]
        lines.append(f"{a} {b} {' '.join(hexes)} {bits_of(acc):08x} {bits_of(result):08x}")
    (HERE / "dot.txt").write_text("\n".join(lines) + "\n")


decode()
rounding()
dot()
