//! What is in an envelope: a tenant's secrets with the time each was set, as one padded block.
//!
//! Encoded by hand and into a buffer of the right size from the start: a serialiser would leave
//! copies behind wherever its buffers grew.

use std::collections::BTreeMap;

use mvm_model::record::Millis;
use mvm_model::secret::{SecretName, SecretValue};
use zeroize::Zeroizing;

/// Contents are padded to a multiple of this many bytes, so that a file's size tells little.
const PADDING: usize = 4096;

/// A secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its value.
    pub value: SecretValue,
    /// When it was set.
    pub set_at: Millis,
}

/// A tenant's secrets, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents(BTreeMap<SecretName, Entry>);

impl Contents {
    /// The secrets in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&SecretName, &Entry)> {
        self.0.iter()
    }

    /// Sets a secret.
    pub fn set(&mut self, name: SecretName, value: SecretValue, now: Millis) {
        self.0.insert(name, Entry { value, set_at: now });
    }

    /// Removes a secret; says whether there was one.
    pub fn remove(&mut self, name: &SecretName) -> bool {
        self.0.remove(name).is_some()
    }

    /// Names and values, for checking limits.
    pub fn values(&self) -> impl Iterator<Item = (&SecretName, &SecretValue)> {
        self.0.iter().map(|(name, entry)| (name, &entry.value))
    }

    /// The block, with capacity for `room` bytes more.
    pub(crate) fn encode(&self, room: usize) -> Zeroizing<Vec<u8>> {
        let entry = |(name, entry): (&SecretName, &Entry)| {
            1 + name.as_str().len() + 8 + 4 + entry.value.size()
        };
        let size = (4 + self.0.iter().map(entry).sum::<usize>()).next_multiple_of(PADDING);
        let mut block = Zeroizing::new(Vec::with_capacity(size + room));
        block.extend_from_slice(&(self.0.len() as u32).to_be_bytes());
        for (name, entry) in &self.0 {
            // Names have 64 bytes at most, values a quarter of a MiB.
            block.push(name.as_str().len() as u8);
            block.extend_from_slice(name.as_str().as_bytes());
            block.extend_from_slice(&entry.set_at.to_be_bytes());
            block.extend_from_slice(&(entry.value.size() as u32).to_be_bytes());
            block.extend_from_slice(entry.value.expose());
        }
        block.resize(size, 0);
        block
    }

    /// Reads a block; `None` for anything [`Self::encode`] does not write.
    pub(crate) fn decode(block: &[u8]) -> Option<Self> {
        let mut rest = block;
        let count = u32::from_be_bytes(*take_array(&mut rest)?);
        let mut contents = Self::default();
        for _ in 0..count {
            let [len] = *take_array(&mut rest)?;
            let name = std::str::from_utf8(take(&mut rest, len.into())?).ok()?.parse().ok()?;
            let set_at = Millis::from_be_bytes(*take_array(&mut rest)?);
            let size = u32::from_be_bytes(*take_array(&mut rest)?);
            let value = take(&mut rest, size as usize)?;
            contents.set(name, SecretValue::new(value.to_vec()), set_at);
        }
        let is_whole = contents.0.len() == count as usize && rest.iter().all(|byte| *byte == 0);
        is_whole.then_some(contents)
    }
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(len)?;
    *rest = left;
    Some(taken)
}

fn take_array<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    take(rest, N)?.try_into().ok()
}
