//! Refuses policy text that nests deeper than what walks its trees can follow.
//!
//! Parsing, validating and dropping an expression use stack in proportion to its depth, and a stack that runs out ends
//! the process: one file of brackets would stop every control plane that reads it, again after each restart. So depth is
//! bounded before the text meets the parser, by a scan that uses no stack. It counts more than the tree will have, never
//! less: open brackets, and within one policy everything that hangs one expression below another without a bracket
//! (`a && b && c`, `!!a`, `a.b.c`, `if a then b else if c then d else e`, a further `when`).

/// Brackets within each other. People write fewer than ten.
const BRACKETS: usize = 64;
/// Operators, dots, conditionals and clauses of one policy. Long lists belong into a set, which is flat.
const LINKS: usize = 512;

/// Where the text gets too deep, as byte offset, and what to do about it.
pub(crate) fn too_deep(text: &str) -> Option<(usize, &'static str)> {
    let (mut brackets, mut links) = (0_usize, 0_usize);
    let mut bytes = text.bytes().enumerate().peekable();
    let mut word_before = false;
    while let Some((at, byte)) = bytes.next() {
        let next = bytes.peek().map(|(_, next)| *next);
        let begins_word = !word_before && byte.is_ascii_alphabetic();
        word_before = byte.is_ascii_alphanumeric() || byte == b'_';
        match byte {
            b'"' => {
                while let Some((_, inside)) = bytes.next() {
                    match inside {
                        b'"' => break,
                        b'\\' => _ = bytes.next(),
                        _ => {}
                    }
                }
            }
            b'/' if next == Some(b'/') => {
                bytes.by_ref().take_while(|(_, inside)| *inside != b'\n').for_each(drop);
            }
            b'(' | b'[' | b'{' => brackets += 1,
            b')' | b']' | b'}' => brackets = brackets.saturating_sub(1),
            b';' => links = 0,
            b'&' | b'|' if next == Some(byte) => {
                bytes.next();
                links += 1;
            }
            b'!' if next != Some(b'=') => links += 1,
            b'+' | b'-' | b'*' | b'.' => links += 1,
            _ if begins_word => {
                let rest = text.get(at..).unwrap_or_default();
                links += usize::from(["if", "when", "unless"].iter().any(|word| is_word(rest, word)));
            }
            _ => {}
        }
        if brackets > BRACKETS {
            return Some((at, "the brackets are nested too deeply; split the policy into several"));
        }
        if links > LINKS {
            return Some((at, "the policy is too long an expression; write long lists as sets, or split the policy"));
        }
    }
    None
}

fn is_word(text: &str, word: &str) -> bool {
    let after = text.strip_prefix(word).map(|rest| rest.bytes().next());
    after.is_some_and(|next| next.is_none_or(|byte| !byte.is_ascii_alphanumeric() && byte != b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_not_too_deep() {
        let long_set = format!("permit(principal, action, resource) when {{ [{}].contains(1) }};", "1, ".repeat(5_000));
        let many = "permit(principal, action, resource) when { context.a && !context.b };\n".repeat(5_000);
        let text =
            "@reason(\"((((((((\")\n// ((((((\npermit(principal, action, resource) when { \"a\\\"((\" == \"\" };";
        for fine in [long_set.as_str(), many.as_str(), text, "", "\"open", "// open"] {
            assert_eq!(too_deep(fine), None);
        }
    }

    #[test]
    fn each_way_to_nest_is_counted() {
        let ways =
            ["(", "[", "{", "!", "-", "a && ", "a || ", "1 + ", "1 - ", "1 * ", "a.", "if a then b else ", "when "];
        for way in ways {
            assert_eq!(too_deep(&way.repeat(BRACKETS)), None, "{way}");
            assert!(too_deep(&way.repeat(LINKS + 1)).is_some(), "{way}");
        }
    }
}
