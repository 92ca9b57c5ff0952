//! The parser's verdicts in words of a rule's author, with what to do.

use granit_parser::ErrorKind;

use super::{Fault, FaultKind, MAX_DEPTH, cut};

pub(super) fn too_deep(at: usize) -> Fault {
    Fault::new(
        FaultKind::TooDeep,
        at..at,
        format!("lists and mappings are nested more than {MAX_DEPTH} deep here"),
        "no rule needs that; look for a bracket that is never closed",
    )
}

/// The parser's verdict in words of a rule's author.
pub(super) fn explain(kind: &ErrorKind, text: &str, at: usize) -> Fault {
    let at = floor(text, at);
    let here = text[at..].chars().next();
    if let Some(fault) = open_bracket(kind, text, at).or_else(|| no_space(kind, text, at)) {
        return fault;
    }
    let (message, help): (String, &str) = match kind {
        ErrorKind::RecursionLimitExceeded => return too_deep(at),
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabInPlainScalar
        | ErrorKind::TabAtBlockScalarStart => {
            let tab = text[at..].find('\t').map_or(at, |i| at + i);
            return Fault::new(
                FaultKind::Syntax,
                tab..tab + usize::from(text[tab..].starts_with('\t')),
                "a tab stands where YAML wants spaces",
                "indent with spaces; most editors can turn tabs into spaces",
            );
        }
        ErrorKind::UnclosedQuotedScalar
        | ErrorKind::DocumentIndicatorInQuotedScalar
        | ErrorKind::InvalidQuotedScalarIndent => {
            ("a quote is opened here and never closed".into(), "close it with the same quote (\" or ')")
        }
        ErrorKind::InvalidTrailingDoubleQuotedScalar | ErrorKind::InvalidTrailingSingleQuotedScalar => (
            "text follows after a closing quote".into(),
            "put the whole value in quotes, and a quote within it as \\\" (in \"…\") or '' (in '…')",
        ),
        ErrorKind::UnknownQuotedScalarEscape | ErrorKind::InvalidQuotedScalarHexEscape => (
            "a backslash in double quotes begins an escape that does not exist".into(),
            "write '…' with single quotes, where a backslash is only a backslash",
        ),
        ErrorKind::UnexpectedCharacter { character: '`' } => {
            ("a value cannot begin with a backtick".into(), "put the value in quotes")
        }
        ErrorKind::UnexpectedCharacter { character: c @ ('@' | '%') } => {
            (format!("a value cannot begin with `{c}`"), "put the value in quotes")
        }
        ErrorKind::UnclosedFlowCollection { open } => (
            format!("`{open}` is opened here and never closed"),
            "add the closing bracket; or write the list with `-`, one a line",
        ),
        ErrorKind::UnexpectedEofFlowSequence
        | ErrorKind::UnexpectedEofFlowMapping
        | ErrorKind::UnexpectedEofImplicitFlowMapping => {
            ("the file ends within brackets".into(), "close every `[` with `]` and every `{` with `}`")
        }
        ErrorKind::MismatchedFlowCollectionEnd { open, close } => {
            (format!("`{open}` is closed by `{close}`"), "close `[` with `]` and `{` with `}`")
        }
        ErrorKind::MisplacedFlowCollectionEnd => {
            ("a closing bracket without an opening one".into(), "remove it, or put the text in quotes")
        }
        ErrorKind::ExpectedFlowSequenceSeparator | ErrorKind::ExpectedFlowMappingSeparator => (
            "a comma or a closing bracket is missing here".into(),
            "separate what stands in brackets by commas; a text with `,` `[` `]` `{` `}` `: ` in it needs quotes",
        ),
        ErrorKind::MappingValueNotAllowed
        | ErrorKind::InvalidColonPlacement
        | ErrorKind::MappingKeyNotAllowed => (
            "a `:` where no key can stand".into(),
            "put a text that holds `: ` in quotes; otherwise check that this line begins in the same column as its neighbours",
        ),
        ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey => (
            "a key without its `:`".into(),
            "write `key: value`, with a space after the colon, and keys of one mapping in the same column",
        ),
        ErrorKind::ExpectedBlockMappingKey
        | ErrorKind::InvalidIndentation
        | ErrorKind::ExpectedBlockSequenceEntry => (
            "this line does not fit the lines above".into(),
            "check its indentation: keys of one mapping begin in the same column, and so do the `-` of one list",
        ),
        ErrorKind::BlockSequenceEntryNotAllowed
        | ErrorKind::BlockEntryInFlowCollection
        | ErrorKind::InvalidBlockEntryWhitespace => (
            "a `-` where no list can begin".into(),
            "begin a list on a line of its own; a text that begins with `- ` needs quotes",
        ),
        ErrorKind::CommentNotSeparated | ErrorKind::CommentInterceptedScalar => (
            "a comment breaks into a value here".into(),
            "put a space before `#`, or quotes around a value that holds it",
        ),
        ErrorKind::MissingAnchorOrAliasName => {
            (format!("a value cannot begin with `{}`", here.unwrap_or('*')), "put the value in quotes")
        }
        ErrorKind::DirectiveDisallowed
        | ErrorKind::MissingDirectiveName
        | ErrorKind::InvalidDirectiveName
        | ErrorKind::MissingDocumentEndBeforeDirective
        | ErrorKind::ExpectedDocumentStart => (
            "this line is nothing that can stand at the top of the file".into(),
            "put a value that begins with `%` in quotes; keys at the top begin in the first column",
        ),
        ErrorKind::InvalidDocumentEnd => ("text follows after `...`".into(), "remove the line `...`"),
        ErrorKind::ExpectedNodeContent
        | ErrorKind::UnexpectedEndOfPlainScalar
        | ErrorKind::UnexpectedCharacter { .. } => (
            here.filter(|c| !c.is_whitespace()).map_or_else(
                || "a value is missing here".into(),
                |c| format!("a value cannot begin with `{c}`"),
            ),
            "put the value in quotes",
        ),
        ErrorKind::BomInsideDocument => (
            "a byte-order mark stands within the text".into(),
            "remove it; files glued together keep one each",
        ),
        _ => (
            "this is not well-formed YAML".into(),
            "compare the line with its neighbours: a space after `:`, the same indentation, quotes around odd characters",
        ),
    };
    let end = at + here.filter(|c| *c != '\n' && *c != '\r').map_or(0, char::len_utf8);
    Fault::new(FaultKind::Syntax, at..end, message, help)
}

/// A bracket of an earlier line that is still open where the parser stumbled: that is the mistake.
fn open_bracket(kind: &ErrorKind, text: &str, at: usize) -> Option<Fault> {
    let stumbles = matches!(
        kind,
        ErrorKind::MappingValueNotAllowed
            | ErrorKind::InvalidColonPlacement
            | ErrorKind::ExpectedFlowSequenceSeparator
            | ErrorKind::ExpectedFlowMappingSeparator
            | ErrorKind::BlockEntryInFlowCollection
            | ErrorKind::UnclosedFlowCollection { .. }
            | ErrorKind::UnexpectedEofFlowSequence
            | ErrorKind::UnexpectedEofFlowMapping
            | ErrorKind::UnexpectedEofImplicitFlowMapping
    );
    if !stumbles {
        return None;
    }
    let mut open: Vec<usize> = Vec::new();
    let (mut quote, mut before) = (None, ' ');
    let mut chars = text[..at].char_indices();
    while let Some((i, c)) = chars.next() {
        let begins = matches!(before, ' ' | '\n' | '[' | '{' | ',' | ':');
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') if begins => quote = Some(c),
            (None, '#') if matches!(before, ' ' | '\n') => {
                chars.by_ref().find(|(_, c)| *c == '\n');
            }
            (None, '[' | '{') if begins || !open.is_empty() => open.push(i),
            (None, ']' | '}') => drop(open.pop()),
            (None, _) => {}
        }
        before = c;
    }
    let first = open.first().copied()?;
    text[first..at].contains('\n').then(|| {
        let message = format!("`{}` is opened here and never closed", &text[first..=first]);
        let help = "add the closing bracket; or write the list with `- `, one a line";
        Fault::new(FaultKind::Syntax, first..first + 1, message, help)
    })
}

/// `key:value`, which is a text and no key.
fn no_space(kind: &ErrorKind, text: &str, at: usize) -> Option<Fault> {
    if !matches!(
        kind,
        ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey | ErrorKind::ExpectedBlockMappingKey
    ) {
        return None;
    }
    let line = text[at..].lines().next()?;
    let key = line.len() - line.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_').len();
    let rest = line[key..].strip_prefix(':')?;
    (key > 0 && rest.starts_with(|c: char| !c.is_whitespace())).then(|| {
        let message = format!("`{}` has no space after its `:`", cut(line.trim_end()));
        let help = format!("write `{}: {}`", &line[..key], cut(rest.trim_end()));
        Fault::new(FaultKind::Syntax, at + key..at + key + 1, message, help)
    })
}

fn floor(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
