//! The one form of a policy file.

use cedar_policy_formatter::{Config, policies_str_to_pretty};

/// A policy file in its one form; comments stay. What is wrong with a text that is not Cedar is the error. Formatting what
/// was formatted changes nothing.
pub fn format(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Ok(String::new());
    }
    let config = Config { line_width: 120, indent_width: 2 };
    let pretty = policies_str_to_pretty(text, &config).map_err(|error| error.to_string())?;
    Ok(pretty.trim_end().to_owned() + "\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn comments_and_annotations_stay_and_a_second_time_changes_nothing() {
        let text = "// Why.\n@id(\"a\") @owner(\"o\")\npermit(principal,action,\n resource) when{context.net.dst_port==1// port\n};";
        let once = format(text).unwrap();
        assert!(once.starts_with("// Why.\n@id(\"a\")\n@owner(\"o\")\npermit"), "{once}");
        assert!(once.contains("// port") && once.ends_with(";\n"), "{once}");
        assert_eq!(format(&once).unwrap(), once);
        assert!(format("permit(").is_err());
        assert_eq!(format(" \n").unwrap(), "");
    }
}
