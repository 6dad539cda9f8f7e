//! A tenant's secrets at rest: one encrypted file.
//!
//! ```text
//! header      magic · version · epoch · key id · digest of the secrets       in clear
//! data key    random for every file, encrypted with a key derived from the host's
//! contents    names, values, times, padded, encrypted with the data key
//! ```
//!
//! Both ciphertexts are bound to the header and to the tenant's name, so that a changed byte, a
//! file of another tenant or another epoch does not open. What cannot be seen in the file is that
//! the whole of it is an older one; who delivers secrets compares its epoch with those delivered.
//! AES-256-GCM-SIV with random nonces: also a repeated nonce would reveal nothing but equality.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use mvm_model::{Digest, TenantName};
use zeroize::Zeroizing;

use super::contents::Contents;
use super::key::{Derived, HostKey, KeyId};

const MAGIC: &[u8; 12] = b"mvm-secrets\0";
/// The version of the file this program writes and the only one it reads.
const VERSION: u32 = 1;
const HEADER: usize = 12 + 4 + 8 + 8 + 32;
const TAG: usize = 16;
/// An encrypted data key with its nonce.
const WRAPPED: usize = NONCE_LEN + 32 + TAG;
/// The largest file that is read: every secret at its limit, and then some.
pub const LARGEST: u64 = 4 << 20;

/// What an envelope says without being opened. Not to be relied on before it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Counts the changes of the tenant's secrets.
    pub epoch: u64,
    /// Which key it was encrypted with.
    pub key_id: KeyId,
    digest: [u8; 32],
}

/// Why an envelope does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not one of ours, or cut short.
    #[error("it is no envelope of secrets")]
    Foreign,
    /// Of a later version.
    #[error("it is of version {0}, this mvm knows {VERSION}")]
    Newer(u32),
    /// Encrypted with another key than this host's.
    #[error("it was encrypted with key {}, this host has key {}", hex(theirs), hex(ours))]
    OtherKey {
        /// The envelope's.
        theirs: KeyId,
        /// The host's.
        ours: KeyId,
    },
    /// Changed since it was written, or another tenant's.
    #[error("it was changed since it was written, or belongs to another tenant")]
    Changed,
    /// The provider failed; happens without memory only.
    #[error("it cannot be encrypted")]
    Provider,
}

fn hex(id: &KeyId) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Which version of which secrets: another one means they changed. Nobody without the host's key
/// learns anything of the values from it.
pub fn digest(key: &HostKey, contents: &Contents) -> Digest {
    Digest::from_sha256(raw_digest(key, contents))
}

fn raw_digest(key: &HostKey, contents: &Contents) -> [u8; 32] {
    let parts =
        contents.iter().flat_map(|(name, entry)| [name.as_str().as_bytes(), entry.value.expose()]);
    key.digest("mvm secrets: digest", parts)
}

impl Header {
    /// Reads the header of an envelope.
    ///
    /// # Errors
    /// When it is none, or of a later version.
    pub fn read(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(EnvelopeError::Foreign)?;
        let (version, rest) = rest.split_first_chunk().ok_or(EnvelopeError::Foreign)?;
        match u32::from_be_bytes(*version) {
            VERSION => {}
            0 => return Err(EnvelopeError::Foreign),
            other => return Err(EnvelopeError::Newer(other)),
        }
        let (epoch, rest) = rest.split_first_chunk().ok_or(EnvelopeError::Foreign)?;
        let (key_id, rest) = rest.split_first_chunk().ok_or(EnvelopeError::Foreign)?;
        let (digest, _) = rest.split_first_chunk().ok_or(EnvelopeError::Foreign)?;
        Ok(Self { epoch: u64::from_be_bytes(*epoch), key_id: *key_id, digest: *digest })
    }

    fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let parts: [&[u8]; 5] =
            [MAGIC, &VERSION.to_be_bytes(), &self.epoch.to_be_bytes(), &self.key_id, &self.digest];
        bytes.copy_from_slice(&parts.concat());
        bytes
    }

    /// The digest of the secrets it holds.
    pub fn digest(&self) -> Digest {
        Digest::from_sha256(self.digest)
    }
}

/// Encrypts a tenant's secrets as of `epoch`, with a fresh data key.
///
/// # Errors
/// [`EnvelopeError::Provider`].
pub fn seal(
    key: &HostKey,
    tenant: &TenantName,
    epoch: u64,
    contents: &Contents,
) -> Result<Vec<u8>, EnvelopeError> {
    let header = Header { epoch, key_id: key.id(), digest: raw_digest(key, contents) }.to_bytes();
    let mut data_key = Derived::default();
    getrandom::fill(data_key.as_mut_slice()).map_err(|_| EnvelopeError::Provider)?;
    let mut envelope = header.to_vec();
    let bound = [&header, tenant.as_str().as_bytes()].concat();
    // Room for the tag, so that nothing in clear is left behind by growing.
    let mut wrapped = Zeroizing::new(Vec::with_capacity(32 + TAG));
    wrapped.extend_from_slice(data_key.as_slice());
    encrypt(&wrapping_key(key), &bound, &mut wrapped, &mut envelope)?;
    let bound = [&envelope, tenant.as_str().as_bytes()].concat();
    let mut contents = contents.encode(TAG);
    encrypt(&data_key, &bound, &mut contents, &mut envelope)?;
    Ok(envelope)
}

/// Decrypts a tenant's secrets.
///
/// # Errors
/// Whatever about it is not as [`seal`] made it for this tenant with this key.
pub fn open(
    key: &HostKey,
    tenant: &TenantName,
    envelope: &[u8],
) -> Result<(Header, Contents), EnvelopeError> {
    let header = Header::read(envelope)?;
    if header.key_id != key.id() {
        return Err(EnvelopeError::OtherKey { theirs: header.key_id, ours: key.id() });
    }
    let (before, wrapped) = (envelope.get(..HEADER), envelope.get(HEADER..HEADER + WRAPPED));
    let (Some(before), Some(wrapped)) = (before, wrapped) else {
        return Err(EnvelopeError::Foreign);
    };
    let bound = [before, tenant.as_str().as_bytes()].concat();
    let unwrapped = decrypt(&wrapping_key(key), &bound, wrapped)?;
    let mut data_key = Derived::default();
    data_key.copy_from_slice(unwrapped.get(..32).ok_or(EnvelopeError::Changed)?);
    let bound = [&envelope[..HEADER + WRAPPED], tenant.as_str().as_bytes()].concat();
    let contents = decrypt(&data_key, &bound, &envelope[HEADER + WRAPPED..])?;
    let contents = Contents::decode(&contents).ok_or(EnvelopeError::Changed)?;
    Ok((header, contents))
}

fn wrapping_key(key: &HostKey) -> Derived {
    key.derive("mvm secrets: data keys")
}

/// Appends nonce and ciphertext to `envelope`; what was in clear is overwritten.
fn encrypt(
    key: &Derived,
    bound: &[u8],
    clear: &mut Vec<u8>,
    envelope: &mut Vec<u8>,
) -> Result<(), EnvelopeError> {
    let sealing = RandomizedNonceKey::new(&AES_256_GCM_SIV, key.as_slice())
        .and_then(|key| key.seal_in_place_append_tag(Aad::from(bound), clear));
    let nonce = sealing.map_err(|_| EnvelopeError::Provider)?;
    envelope.extend_from_slice(nonce.as_ref());
    envelope.extend_from_slice(clear);
    Ok(())
}

/// The clear text of nonce and ciphertext.
fn decrypt(key: &Derived, bound: &[u8], bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, EnvelopeError> {
    let (nonce, text) = bytes.split_first_chunk::<NONCE_LEN>().ok_or(EnvelopeError::Foreign)?;
    let mut clear = Zeroizing::new(text.to_vec());
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let len = RandomizedNonceKey::new(&AES_256_GCM_SIV, key.as_slice())
        .and_then(|key| Ok(key.open_in_place(nonce, Aad::from(bound), &mut clear)?.len()))
        .map_err(|_| EnvelopeError::Changed)?;
    clear.truncate(len);
    Ok(clear)
}
