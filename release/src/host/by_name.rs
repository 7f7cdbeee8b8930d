//! Objects whose names are the owner's: a map would take the last of two with the same name.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Reads an object of `what` (one of them) by their names, none of them twice.
///
/// # Errors
/// It is none, or one that has a name twice.
pub(super) fn by_name<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
    what: &'static str,
) -> Result<BTreeMap<String, T>, D::Error> {
    deserializer.deserialize_map(ByName { what, of: PhantomData })
}

struct ByName<T> {
    what: &'static str,
    of: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for ByName<T> {
    type Value = BTreeMap<String, T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with {}s by their names", self.what)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut all = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if all.contains_key(&name) {
                return Err(A::Error::custom(format_args!("duplicate {} {name:?}", self.what)));
            }
            all.insert(name, map.next_value()?);
        }
        Ok(all)
    }
}
