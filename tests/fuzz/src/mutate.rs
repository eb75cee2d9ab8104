//! Inputs made from seeds: the same ones in every run.

/// Values that sit at the edges of things.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7F,
    0x80,
    0xFFF,
    0x1000,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    0x7FFF_FFFF_FFFF_FFFF,
    0xFFFF_FFFF_FFFF_F000,
    u64::MAX,
];
const LONGEST: usize = 8192;

/// A source of inputs: xorshift64*, and mutations of seeds.
#[derive(Clone, Debug)]
pub struct Mutator {
    state: u64,
    seeds: Vec<Vec<u8>>,
}

impl Mutator {
    /// Returns a source around these seeds. One name gives one sequence.
    #[must_use]
    pub fn new(name: &str, seeds: Vec<Vec<u8>>) -> Self {
        let state = name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)
        });
        Self {
            state: state | 1,
            seeds,
        }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).unwrap_or(1);
        usize::try_from(self.next() % end).unwrap_or(0)
    }

    fn noise(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[3]).collect()
    }

    /// Returns the next input: noise, a seed, or most often a seed with a few changes.
    pub fn input(&mut self) -> Vec<u8> {
        let index = self.below(self.seeds.len());
        let seed = self.seeds.get(index).cloned().unwrap_or_default();
        match self.below(16) {
            0 => {
                let len = self.below(512);
                self.noise(len)
            }
            1 => seed,
            _ => {
                let mut bytes = seed;
                for _ in 0..=self.below(6) {
                    self.change(&mut bytes);
                }
                bytes.truncate(LONGEST.max(self.seeds.get(index).map_or(0, Vec::len)));
                bytes
            }
        }
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        match self.below(8) {
            0 => bytes.truncate(at),
            1 => {
                let len = self.below(64);
                let noise = self.noise(len);
                bytes.splice(at..at, noise);
            }
            2 => {
                let end = (at + self.below(32)).min(bytes.len());
                bytes.drain(at..end);
            }
            3 => {
                let (from, len) = (self.below(bytes.len()), self.below(64));
                let part: Vec<u8> = bytes[from..].iter().take(len).copied().collect();
                bytes.splice(at..at, part);
            }
            4 | 5 => {
                let edge = EDGES[self.below(EDGES.len())].to_le_bytes();
                let len = 1 << self.below(4);
                // Fields lie at multiples of their size.
                let at = at & !(len - 1);
                for (slot, byte) in bytes[at..].iter_mut().zip(&edge[..len]) {
                    *slot = *byte;
                }
            }
            6 => {
                let noise = self.next().to_le_bytes()[0];
                bytes[at..]
                    .iter_mut()
                    .take(1)
                    .for_each(|byte| *byte = noise);
            }
            _ => {
                let bit = 1 << self.below(8);
                bytes[at..].iter_mut().take(1).for_each(|byte| *byte ^= bit);
            }
        }
    }
}
