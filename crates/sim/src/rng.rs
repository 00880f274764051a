//! Chance, from one seed: splitmix64, whose whole state is one number.

/// A stream of numbers that only its seed decides.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// From `from` to `to`, both included.
    pub(crate) fn range(&mut self, from: i64, to: i64) -> i64 {
        let width = u64::try_from(to - from).unwrap_or(0) + 1;
        from + i64::try_from(self.next() % width).unwrap_or(0)
    }

    /// True this often in a thousand.
    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.next() % 1_000 < per_mille
    }

    pub(crate) fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let index = self.next() % all.len().max(1) as u64;
        all.get(usize::try_from(index).unwrap_or(0))
    }
}

/// A number that differs wherever `n` does, and looks like none of its neighbours.
pub(crate) fn mix(n: u64) -> u64 {
    let mut z = n;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number for a text (FNV-1a).
pub(crate) fn hash_of(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// As many hexadecimal digits as a name needs, made of a text.
pub(crate) fn hex_of(text: &str, digits: usize) -> String {
    let mut rng = Rng::new(hash_of(text));
    let mut hex = String::new();
    while hex.len() < digits {
        hex.push_str(&format!("{:016x}", rng.next()));
    }
    hex.truncate(digits);
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_everything_and_ranges_hold() {
        let numbers = |seed| {
            let mut rng = Rng::new(seed);
            (0..100).map(|_| rng.range(-3, 3)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(1), numbers(1));
        assert_ne!(numbers(1), numbers(2));
        let all = numbers(3);
        assert!(all.iter().all(|n| (-3..=3).contains(n)) && all.contains(&-3) && all.contains(&3));
        assert_ne!(hex_of("a", 40), hex_of("b", 40));
        assert_eq!(hex_of("a", 40).len(), 40);
    }
}
