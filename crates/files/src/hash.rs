//! SHA-256, and the SHA-1 that git names small files by: a thin coat over the implementation that the
//! TLS library already brings, so that no second one is built.

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

/// A running hash.
pub struct Hash(Context);

impl Hash {
    /// SHA-256.
    pub fn sha256() -> Self {
        Hash(Context::new(&SHA256))
    }

    /// Git's name of a file of `size` bytes: SHA-1 over a head and the bytes.
    pub fn git_blob(size: u64) -> Self {
        let mut hash = Hash(Context::new(&SHA1_FOR_LEGACY_USE_ONLY));
        hash.update(format!("blob {size}\0").as_bytes());
        hash
    }

    /// Takes in some bytes more.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest in lower-case hexadecimal.
    pub fn hex(self) -> String {
        self.0.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The digest's bytes: all 32 of a SHA-256, the 20 of a SHA-1 and zeros.
    pub fn bytes(self) -> [u8; 32] {
        let mut out = [0; 32];
        let digest = self.0.finish();
        let n = digest.as_ref().len().min(32);
        out[..n].copy_from_slice(&digest.as_ref()[..n]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_standards() {
        let mut hash = Hash::sha256();
        hash.update(b"abc");
        assert_eq!(hash.hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        // `printf 'hello\n' | git hash-object --stdin`
        let mut hash = Hash::git_blob(6);
        hash.update(b"hello\n");
        assert_eq!(hash.hex(), "ce013625030ba8dba906f756967f9e9ca394464a");
    }
}
