//! Configuration files: YAML, parsed once into the caller's type.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// A configuration file is read whole; nobody writes one of this size by hand.
const MAX_BYTES: u64 = 1024 * 1024;

/// Why a configuration file was refused. The text names file, line and field.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file `{}`; check the path and its permissions", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the configuration file `{}` is larger than {MAX_BYTES} bytes", path.display())]
    TooLarge { path: PathBuf },
    #[error("`{}` line {line}, column {column}: {message}; correct this line and start again", path.display())]
    Parse { path: PathBuf, line: u64, column: u64, message: String },
}

/// Reads a YAML file into `T`. `T` should carry `#[serde(deny_unknown_fields)]`.
///
/// # Errors
/// When the file cannot be read or does not fit `T`; the message names file, line and field.
pub fn load_config<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(read)?.len() > MAX_BYTES {
        return Err(ConfigError::TooLarge { path: path.to_owned() });
    }
    let text = std::fs::read_to_string(path).map_err(read)?;
    serde_saphyr::from_str(&text).map_err(|error| {
        let location = error.location();
        ConfigError::Parse {
            path: path.to_owned(),
            line: location.map_or(1, |l| l.line()),
            column: location.map_or(1, |l| l.column()),
            message: first_line(&error.without_snippet().to_string()),
        }
    })
}

/// The parser appends the position to its message; ours is in front already.
fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    match line.rfind(" at line ") {
        Some(at) => line.get(..at).unwrap_or(line).to_owned(),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[expect(dead_code, reason = "only its type matters")]
        listen: std::net::SocketAddr,
    }

    fn check(text: &str, expect: &[&str]) {
        let dir = std::env::temp_dir().join(format!("signet-observe-{}-{}", std::process::id(), text.len()));
        std::fs::write(&dir, text).unwrap();
        let error = load_config::<Sample>(&dir).unwrap_err().to_string();
        std::fs::remove_file(&dir).unwrap();
        for part in expect {
            assert!(error.contains(part), "`{error}` lacks `{part}`");
        }
    }

    #[test]
    fn names_line_and_unknown_field() {
        check("listen: 127.0.0.1:1\nlisten_too: 3\n", &["line 2", "listen_too"]);
    }

    #[test]
    fn names_missing_field() {
        check("{}\n", &["listen"]);
    }

    #[test]
    fn names_line_of_a_value_of_the_wrong_kind() {
        check("\n\nlisten: nowhere\n", &["line 3"]);
    }
}
