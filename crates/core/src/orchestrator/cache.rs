//! What a process keeps at hand, bounded by its bytes. Forgetting makes nothing wrong.

use std::{collections::HashMap, hash::Hash};

/// Counted beside the bytes that whoever keeps something tells: keys, tables, pointers.
const EACH: usize = 512;

/// Values with their sizes.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    kept: HashMap<K, (V, usize)>,
    bytes: usize,
    most: usize,
}

impl<K: Eq + Hash, V> Cache<K, V> {
    pub(super) fn of_bytes(most: usize) -> Self {
        Self { kept: HashMap::new(), bytes: 0, most }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.kept.get(key).map(|(value, _)| value)
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let (value, bytes) = self.kept.remove(key)?;
        self.bytes -= bytes;
        Some(value)
    }

    /// Keeps a value. What has no room is not kept; when all have none together, all others are forgotten, among them what
    /// nobody will ask for again.
    pub(super) fn insert(&mut self, key: K, value: V, bytes: usize) {
        let bytes = bytes + EACH;
        self.remove(&key);
        if bytes > self.most {
            return;
        }
        if self.bytes + bytes > self.most {
            self.kept.clear();
            self.bytes = 0;
        }
        self.bytes += bytes;
        self.kept.insert(key, (value, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::Cache;

    #[test]
    fn what_is_kept_never_has_more_bytes_than_it_may() {
        let mut cache = Cache::of_bytes(100_000);
        for key in 0..1000 {
            cache.insert(key, (), 20_000);
            assert!(cache.bytes <= 100_000 && cache.kept.len() <= 4);
            assert!(cache.get(&key).is_some());
        }
        cache.insert(1, (), 200_000);
        assert!(cache.get(&1).is_none(), "what alone is too large is not kept");
        for key in 0..1000 {
            cache.remove(&key);
        }
        assert_eq!(cache.bytes, 0);
    }
}
