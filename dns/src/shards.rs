//! A map that is cheap to clone and cheap to change: two levels of shared arrays over small hash maps, copied on write.
use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

/// Arrays of this many branches, twice: 1,024 shards, about 100 entries each at 110,000 names.
const FAN: usize = 32;

/// Every clone shares the hash keys, so that an entry stays in its shard.
type Hasher = std::hash::RandomState;
type Shard<K, V> = Arc<HashMap<K, V, Hasher>>;
type Branch<K, V> = Arc<[Shard<K, V>; FAN]>;

/// A persistent map. A clone is one reference count; a change copies one shard and two arrays of 32 pointers, and only
/// those that another clone still holds.
#[derive(Clone, Debug)]
pub(crate) struct Shards<K, V> {
    root: Arc<[Branch<K, V>; FAN]>,
    hasher: Hasher,
    len: usize,
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        let hasher = Hasher::new();
        let shard: Shard<K, V> = Arc::new(HashMap::with_hasher(hasher.clone()));
        let branch: Branch<K, V> = Arc::new(std::array::from_fn(|_| Arc::clone(&shard)));
        Self { root: Arc::new(std::array::from_fn(|_| Arc::clone(&branch))), hasher, len: 0 }
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Shards<K, V> {
    /// Count of entries.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The value of `key`.
    pub(crate) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let (branch, shard) = self.place(key);
        self.root[branch][shard].get(key)
    }

    /// Replaces the value of `key`.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.shard(&key).insert(key, value).is_none() {
            self.len += 1;
        }
    }

    /// Replaces the value of `key` if there is one, and keeps the key that is there.
    pub(crate) fn replace<Q: Eq + Hash + ?Sized>(&mut self, key: &Q, value: V)
    where
        K: Borrow<Q>,
    {
        if let Some(place) = self.shard(key).get_mut(key) {
            *place = value;
        }
    }

    /// Removes `key`.
    pub(crate) fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        if self.shard(key).remove(key).is_some() {
            self.len -= 1;
        }
    }

    /// All entries, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.root.iter().flat_map(|branch| branch.iter()).flat_map(|shard| shard.iter())
    }

    fn shard<Q: Hash + ?Sized>(&mut self, key: &Q) -> &mut HashMap<K, V, Hasher> {
        let (branch, shard) = self.place(key);
        Arc::make_mut(&mut Arc::make_mut(&mut Arc::make_mut(&mut self.root)[branch])[shard])
    }

    /// The high bits choose the shard: inside it the low bits choose the bucket, and the top seven the control byte.
    fn place<Q: Hash + ?Sized>(&self, key: &Q) -> (usize, usize) {
        let bytes = self.hasher.hash_one(key).to_be_bytes();
        (usize::from(bytes[3]) % FAN, usize::from(bytes[4]) % FAN)
    }
}
