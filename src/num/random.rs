//! Counter-based random numbers for bench data: the value at an index depends on the seed and the index alone, so that any part of a
//! tensor can be made by any thread.
//!
//! Uniform bits are splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014). Normal values
//! are the inverse of the normal distribution function by Wichura's algorithm AS 241, PPND16 (Applied Statistics 37(3), 1988), whose
//! relative error is about 1e-16, in f64 with IEEE operations only, rounded once to f32.

use super::functions::{horner, log2_f64};
use std::f64::consts::LN_2;

/// Output `index` of the splitmix64 generator whose state starts at `seed`.
pub fn splitmix64(seed: u64, index: u64) -> u64 {
    const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(GAMMA));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Value `index` of the N(0, 1) stream of `seed`: the inverse distribution function at (u + 1/2) / 2^52, with u the top 52 bits of
/// [`splitmix64`]. Never zero, infinite or NaN; the magnitude is below 8.3.
pub fn normal(seed: u64, index: u64) -> f32 {
    let u = splitmix64(seed, index) >> 12;
    // Exact: 53 significant bits, strictly between 0 and 1.
    inverse_normal((u as f64 + 0.5) * (1.0 / (1u64 << 52) as f64)) as f32
}

/// The x with P(N(0, 1) < x) = p, for 0 < p < 1.
#[inline]
fn inverse_normal(p: f64) -> f64 {
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180625 - q * q;
        return q * horner(r, &CENTRE_NUM) / horner(r, &CENTRE_DEN);
    }
    let tail = if q < 0.0 { p } else { 1.0 - p };
    let r = (-(log2_f64(tail) * LN_2)).sqrt();
    let x = if r <= 5.0 {
        horner(r - 1.6, &MIDDLE_NUM) / horner(r - 1.6, &MIDDLE_DEN)
    } else {
        horner(r - 5.0, &FAR_NUM) / horner(r - 5.0, &FAR_DEN)
    };
    if q < 0.0 { -x } else { x }
}

// Coefficients of AS 241, from degree 0 up, in three regions: the centre, tails up to r = 5, and beyond.
const CENTRE_NUM: [f64; 8] = [
    3.3871328727963665,
    133.14166789178438,
    1971.5909503065513,
    13731.69376550946,
    45921.95393154987,
    67265.7709270087,
    33430.57558358813,
    2509.0809287301227,
];
const CENTRE_DEN: [f64; 8] = [
    1.0,
    42.31333070160091,
    687.1870074920579,
    5394.196021424751,
    21213.794301586597,
    39307.89580009271,
    28729.085735721943,
    5226.495278852854,
];
const MIDDLE_NUM: [f64; 8] = [
    1.4234371107496835,
    4.630337846156546,
    5.769497221460691,
    3.6478483247632045,
    1.2704582524523684,
    0.2417807251774506,
    0.022723844989269184,
    0.0007745450142783414,
];
const MIDDLE_DEN: [f64; 8] = [
    1.0,
    2.053191626637759,
    1.6763848301838038,
    0.6897673349851,
    0.14810397642748008,
    0.015198666563616457,
    0.0005475938084995345,
    1.0507500716444169e-9,
];
const FAR_NUM: [f64; 8] = [
    6.657904643501103,
    5.463784911164114,
    1.7848265399172913,
    0.29656057182850487,
    0.026532189526576124,
    0.0012426609473880784,
    2.7115555687434876e-5,
    2.0103343992922881e-7,
];
const FAR_DEN: [f64; 8] = [
    1.0,
    0.599832206555888,
    0.1369298809227358,
    0.014875361290850615,
    0.0007868691311456133,
    1.8463183175100548e-5,
    1.421511758316446e-7,
    2.0442631033899397e-15,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix_matches_the_published_generator() {
        // First outputs of the reference C program for seed 1234567.
        let expected = [
            6_457_827_717_110_365_317u64,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        for (index, value) in expected.into_iter().enumerate() {
            assert_eq!(splitmix64(1_234_567, index as u64), value);
        }
    }

    #[test]
    fn inverse_matches_quantiles() {
        // Quantiles of N(0, 1), from tables to 16 digits.
        for (p, x) in [
            (0.5, 0.0),
            (0.75, 0.674_489_750_196_081_7),
            (0.975, 1.959_963_984_540_054),
            (0.99, 2.326_347_874_040_841),
            (1e-6, -4.753_424_308_822_899),
            (1e-15, -7.941_345_326_170_998),
        ] {
            let got = inverse_normal(p);
            assert!(
                (got - x).abs() <= 1e-14 * x.abs().max(1.0),
                "p {p}: {got} for {x}"
            );
        }
    }

    #[test]
    fn moments_and_tails() {
        const COUNT: u64 = 1 << 20;
        let (mut moments, mut past_two) = ([0.0f64; 4], 0u32);
        for index in 0..COUNT {
            let x = f64::from(normal(7, index));
            assert!(x != 0.0 && x.abs() < 8.3);
            for (power, moment) in moments.iter_mut().enumerate() {
                *moment += x.powi(power as i32 + 1) / COUNT as f64;
            }
            past_two += u32::from(x.abs() > 2.0);
        }
        // Five standard errors of each estimate.
        for (moment, (mean, variance)) in
            moments
                .into_iter()
                .zip([(0.0, 1.0), (1.0, 2.0), (0.0, 15.0), (3.0, 96.0f64)])
        {
            assert!(
                (moment - mean).abs() < 5.0 * (variance / COUNT as f64).sqrt(),
                "{moment} for {mean}"
            );
        }
        let share = f64::from(past_two) / COUNT as f64;
        assert!(
            (share - 0.045_500_263_9).abs() < 5.0 * (0.0434 / COUNT as f64).sqrt(),
            "{share}"
        );
    }

    #[test]
    fn bits_match_another_implementation() {
        // From CPython's statistics.NormalDist().inv_cdf, which is AS 241 over the C library's logarithm, rounded to f32.
        for (index, bits) in [
            (0, 0x3E2B_A65F),
            (1, 0x3F29_4944),
            (2, 0x3FF2_A798),
            (3, 0xBE0F_48C5),
            (1_000_003, 0x3F49_1B28),
            ((1 << 40) + 5, 0xBE72_A182u32),
        ] {
            assert_eq!(normal(1, index).to_bits(), bits, "index {index}");
        }
    }
}
