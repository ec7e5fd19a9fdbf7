//! What has a written form is that form in files too.

/// JSON of a type is the string that `FromStr` reads and `Display` writes; the type says
/// `#[serde(try_from = "String", into = "String")]`.
macro_rules! as_string {
    ($kind:ty) => {
        impl TryFrom<String> for $kind {
            type Error = $crate::error::EngineError;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$kind> for String {
            fn from(value: $kind) -> String {
                value.to_string()
            }
        }
    };
}
pub(crate) use as_string;
