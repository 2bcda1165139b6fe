//! What a guest has seen of its processor by CPUID: a machine that lacks some of it cannot go on with the guest.

use core::fmt;
use serde::{Deserialize, Serialize};

/// The feature bits of CPUID, as the guest's policy passes them on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Features {
    /// Leaf 1: ECX, EDX.
    pub leaf1: [u32; 2],
    /// Leaf 7: EBX.
    pub leaf7: u32,
    /// Leaf 0xd: the components that XCR0 can name; of subleaf 1 EAX.
    pub xsave: [u32; 2],
    /// Leaf 0x8000_0001: ECX, EDX.
    pub extended: [u32; 2],
}

/// Features that a machine lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Missing(Features);

impl Features {
    fn words(&self) -> [u32; 7] {
        let Self { leaf1, leaf7, xsave, extended } = *self;
        [leaf1[0], leaf1[1], leaf7, xsave[0], xsave[1], extended[0], extended[1]]
    }

    /// Checks that a processor with the features `here` has all of these.
    ///
    /// # Errors
    /// Those that it lacks.
    pub fn check(&self, here: &Self) -> Result<(), Missing> {
        let lacks = |wanted: u32, has: u32| wanted & !has;
        let missing = Self {
            leaf1: [lacks(self.leaf1[0], here.leaf1[0]), lacks(self.leaf1[1], here.leaf1[1])],
            leaf7: lacks(self.leaf7, here.leaf7),
            xsave: [lacks(self.xsave[0], here.xsave[0]), lacks(self.xsave[1], here.xsave[1])],
            extended: [lacks(self.extended[0], here.extended[0]), lacks(self.extended[1], here.extended[1])],
        };
        if missing == Self::default() { Ok(()) } else { Err(Missing(missing)) }
    }
}

/// Names of bits, by word and bit (SDM vol. 2A CPUID).
const NAMES: [(usize, u32, &str); 34] = [
    (0, 0, "SSE3"),
    (0, 1, "PCLMULQDQ"),
    (0, 9, "SSSE3"),
    (0, 12, "FMA"),
    (0, 13, "CMPXCHG16B"),
    (0, 17, "PCID"),
    (0, 19, "SSE4.1"),
    (0, 20, "SSE4.2"),
    (0, 22, "MOVBE"),
    (0, 23, "POPCNT"),
    (0, 25, "AES"),
    (0, 26, "XSAVE"),
    (0, 28, "AVX"),
    (0, 29, "F16C"),
    (0, 30, "RDRAND"),
    (2, 0, "FSGSBASE"),
    (2, 3, "BMI1"),
    (2, 5, "AVX2"),
    (2, 7, "SMEP"),
    (2, 8, "BMI2"),
    (2, 9, "ERMS"),
    (2, 10, "INVPCID"),
    (2, 18, "RDSEED"),
    (2, 19, "ADX"),
    (2, 20, "SMAP"),
    (2, 23, "CLFLUSHOPT"),
    (2, 24, "CLWB"),
    (4, 0, "XSAVEOPT"),
    (4, 1, "XSAVEC"),
    (5, 5, "LZCNT"),
    (5, 8, "PREFETCHW"),
    (6, 20, "NX"),
    (6, 26, "1 GiB pages"),
    (6, 27, "RDTSCP"),
];

/// Words of [`Features`], for bits without a name.
const WORDS: [&str; 7] =
    ["1:ECX", "1:EDX", "7:EBX", "0xd:EAX", "0xd.1:EAX", "0x80000001:ECX", "0x80000001:EDX"];

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = self.0.words();
        let mut separator = "";
        for (word, bit, name) in NAMES {
            if words[word] >> bit & 1 != 0 {
                words[word] &= !(1 << bit);
                write!(f, "{separator}{name}")?;
                separator = ", ";
            }
        }
        for (word, name) in words.into_iter().zip(WORDS).filter(|(word, _)| *word != 0) {
            write!(f, "{separator}CPUID.{name} {word:#x}")?;
            separator = ", ";
        }
        Ok(())
    }
}
