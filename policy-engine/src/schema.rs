//! The mesh schema that ships with Signet.

use std::str::FromStr;
use std::sync::LazyLock;

use cedar_policy::Schema;

/// Version of the schema text, part of every bundle digest.
pub const SCHEMA_VERSION: u32 = 1;

/// The schema in Cedar's own syntax.
pub fn schema_text() -> &'static str {
    include_str!("../schema/mesh.cedarschema")
}

static SCHEMA: LazyLock<Result<Schema, String>> =
    LazyLock::new(|| Schema::from_str(schema_text()).map_err(|e| e.to_string()));

/// The parsed schema; it ships inside the binary, so an error is a defect of the build and surfaces as a problem.
pub(crate) fn schema() -> Result<&'static Schema, &'static str> {
    SCHEMA.as_ref().map_err(String::as_str)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn shipped_schema_parses() {
        assert!(schema().is_ok());
    }

    #[test]
    fn schema_text_changes_only_with_its_version() {
        // Comments are free; declarations are not. When this fails, raise SCHEMA_VERSION and renew the digest.
        let declarations: String =
            schema_text().lines().filter(|l| !l.trim_start().starts_with("//")).map(|l| format!("{l}\n")).collect();
        let digest = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, declarations.as_bytes()));
        assert_eq!(
            (SCHEMA_VERSION, digest.as_str()),
            (1, "19d5142a7052d1081896496ab12b390afca1bc589d1fdb51dc873b50fd3ac1ab")
        );
    }
}
