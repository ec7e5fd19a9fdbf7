//! Which instruction set a kernel may use, decided at run time.
//!
//! Release binaries and wheels are portable, so nothing is compiled with `target-cpu=native`: each fast
//! kernel carries its own `#[target_feature]` and is reached only after [`Isa::is_available`] said yes.
//! Levels are ordered; a kernel without a variant for a level takes the next lower one.

use std::fmt;
use std::str::FromStr;

/// An instruction set level. Later levels include the earlier ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Isa {
    /// Portable Rust without `unsafe`: the twin that tests compare against.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C (any desktop or server since about 2013). Its quantised products use
    /// AVX-VNNI where the processor has that too, which changes their speed and no bit of their results.
    Avx2,
    /// AVX-512 F, BW, VL and VNNI.
    Avx512,
    /// [`Isa::Avx512`] and the int8 tiles of AMX, where the system grants them to this process.
    Amx,
}

impl Isa {
    /// Every level, lowest first.
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Amx];

    /// The highest level this processor has.
    pub fn best() -> Isa {
        let available = |isa: &&Isa| isa.is_available();
        Isa::ALL.iter().rev().find(available).copied().unwrap_or(Isa::Scalar)
    }

    /// Every level this processor has, lowest first (never empty: [`Isa::Scalar`] always works).
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Whether this processor has the level. The answer is cached by the standard library, so asking is cheap.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            Isa::Avx2 => has_avx2(),
            Isa::Avx512 => has_avx2() && has_avx512(),
            Isa::Amx => has_avx2() && has_avx512() && has_amx(),
        }
    }

    /// True if AVX2 code may run when this level was asked for.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(crate) fn runs_avx2(self) -> bool {
        self >= Isa::Avx2 && has_avx2()
    }

    /// True if AVX-512 code may run when this level was asked for.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn runs_avx512(self) -> bool {
        self >= Isa::Avx512 && has_avx2() && has_avx512()
    }

    /// True if code with int8 tiles may run when this level was asked for.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn runs_amx(self) -> bool {
        self >= Isa::Amx && Isa::Amx.is_available()
    }

    /// True if AVX-VNNI code may run when this level was asked for. No level of its own: where AVX2 products
    /// are wanted, nobody wants the slower ones.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn runs_avx_vnni(self) -> bool {
        self.runs_avx2() && is_x86_feature_detected!("avxvnni")
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

/// Whether the processor has int8 tiles and the system lets this process use them.
#[cfg(target_arch = "x86_64")]
fn has_amx() -> bool {
    use std::sync::OnceLock;
    static GRANTED: OnceLock<bool> = OnceLock::new();
    *GRANTED.get_or_init(|| names_amx() && tiles_are_granted())
}

/// CPUID leaf 7 names the tiles.
#[cfg(target_arch = "x86_64")]
fn names_amx() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    if __cpuid(0).eax < 7 {
        return false;
    }
    let edx = __cpuid_count(7, 0).edx;
    let (tile, int8) = (edx >> 24 & 1, edx >> 25 & 1);
    tile == 1 && int8 == 1
}

/// Asks the kernel for the tiles' state, 8 KiB a thread, which Linux saves only for processes that asked
/// (Documentation/arch/x86/xstate.rst). The grant is for all threads and stays.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn tiles_are_granted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: this call takes two numbers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// How other systems grant tiles is not known here.
#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn tiles_are_granted() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_amx() -> bool {
    false
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
        })
    }
}

/// A name that is none of "scalar", "avx2", "avx512", "amx".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown instruction set {0:?}: one of scalar, avx2, avx512, amx")]
pub struct UnknownIsa(String);

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Isa, UnknownIsa> {
        let named = |isa: &Isa| isa.to_string().eq_ignore_ascii_case(name);
        Isa::ALL.into_iter().find(named).ok_or_else(|| UnknownIsa(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_round_trip_and_strangers_are_refused() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
        assert!("sse9".parse::<Isa>().is_err());
    }

    #[test]
    fn the_best_level_is_available_and_no_available_level_is_above_it() {
        assert!(Isa::best().is_available());
        assert!(Isa::available().into_iter().all(|isa| isa <= Isa::best()));
    }
}
