//! Element types of a cache, one for keys and one for values.

use meden_kernels::attention::KvType;
use serde::{Deserialize, Serialize};

use crate::error::EngineError;

/// Written `f16` where both are alike, `q8/q4` for keys in q8 and values in q4 (`k8v4` is another word for that).
///
/// Keys need more: an error in a key moves every weight that looks at it, one in a value only the average.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KvTypes {
    /// Of keys.
    pub key: KvType,
    /// Of values.
    pub value: KvType,
}

impl KvTypes {
    /// Both in f32.
    pub const F32: KvTypes = KvTypes::both(KvType::F32);
    /// Both in f16.
    pub const F16: KvTypes = KvTypes::both(KvType::F16);
    /// Both in q8.
    pub const Q8: KvTypes = KvTypes::both(KvType::Q8);
    /// Both in q4.
    pub const Q4: KvTypes = KvTypes::both(KvType::Q4);
    /// Keys in q8, values in q4.
    pub const Q8_Q4: KvTypes = KvTypes { key: KvType::Q8, value: KvType::Q4 };

    const fn both(kind: KvType) -> KvTypes {
        KvTypes { key: kind, value: kind }
    }

    /// Does either half hold fewer than eight bits a value?
    pub fn is_low_bit(self) -> bool {
        [self.key, self.value].contains(&KvType::Q4)
    }
}

impl From<KvType> for KvTypes {
    fn from(kind: KvType) -> KvTypes {
        KvTypes::both(kind)
    }
}

impl std::str::FromStr for KvTypes {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<KvTypes, EngineError> {
        let one = |name: &str| {
            name.parse::<KvType>().map_err(|_| EngineError::Setting {
                field: "cache element type",
                value: text.to_string(),
                allowed: "f32, f16, q8 or q4, or two of them for keys and values, as in q8/q4".to_string(),
            })
        };
        match text.split_once('/') {
            _ if text == "k8v4" => Ok(KvTypes::Q8_Q4),
            Some((key, value)) => Ok(KvTypes { key: one(key)?, value: one(value)? }),
            None => Ok(one(text)?.into()),
        }
    }
}

impl std::fmt::Display for KvTypes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.key == self.value { f.pad(self.key.name()) } else { f.pad(&format!("{}/{}", self.key, self.value)) }
    }
}

crate::written::as_string!(KvTypes);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_written_once_or_as_a_pair() {
        for key in KvType::ALL {
            for value in KvType::ALL {
                let kinds = KvTypes { key, value };
                assert_eq!(kinds.to_string().parse::<KvTypes>().expect("its own form"), kinds);
                assert_eq!(format!("{key}/{value}").parse::<KvTypes>().expect("both named"), kinds);
                let json = serde_json::to_string(&kinds).expect("a string");
                assert_eq!(serde_json::from_str::<KvTypes>(&json).expect("its own JSON"), kinds);
            }
        }
        // What older files hold.
        assert_eq!(serde_json::from_str::<KvTypes>("\"f16\"").expect("a plain type"), KvTypes::F16);
        assert_eq!("k8v4".parse::<KvTypes>().expect("the alias"), KvTypes::Q8_Q4);
        assert_eq!(KvTypes::Q8_Q4.to_string(), "q8/q4");
        for bad in ["", "q5", "q8/", "/q4", "q8/q4/q4", "k4v8"] {
            let error = bad.parse::<KvTypes>().expect_err(bad).to_string();
            assert!(error.contains("q8/q4"), "{error}");
        }
    }
}
