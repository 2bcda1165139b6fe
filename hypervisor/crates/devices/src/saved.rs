//! Guest-physical addresses in a saved board: what is none is refused.

use addr::Gpa;
use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) fn serialize<S: Serializer>(gpa: &Gpa, serializer: S) -> Result<S::Ok, S::Error> {
    gpa.as_u64().serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Gpa, D::Error> {
    let raw = u64::deserialize(deserializer)?;
    Gpa::try_new(raw).ok_or_else(|| D::Error::invalid_value(Unexpected::Unsigned(raw), &"an address"))
}
