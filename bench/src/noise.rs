//! Numbers that look random and are the same in every run: SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom
//! number generators, 2014).

/// A generator.
#[derive(Debug, Clone)]
pub struct Noise(u64);

impl Noise {
    /// One that gives the same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound` (0 where that is 0); the bias is far below what a bench can see.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or_default()
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            piece.iter_mut().zip(self.next().to_le_bytes()).for_each(|(byte, noise)| *byte = noise);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_splitmix64() {
        // The first numbers of the reference implementation for this seed (prng.di.unimi.it/splitmix64.c).
        let mut noise = Noise::new(1_234_567);
        assert_eq!([noise.next(), noise.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
        let mut bytes = [0; 9];
        Noise::new(1_234_567).fill(&mut bytes);
        assert_eq!(bytes.first_chunk(), Some(&6_457_827_717_110_365_317_u64.to_le_bytes()));
        assert_eq!(bytes.last().copied(), Some(3_203_168_211_198_807_973_u64.to_le_bytes()[0]));
        assert_eq!(Noise::new(1).below(0), 0);
    }
}
