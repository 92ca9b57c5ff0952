//! `templates:` of a receiver: which files it names, and what they hold.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::{Form, MAX_FILE, Template, Templates};
use crate::rules::compile::SourceFile;
use crate::rules::names::Names;
use crate::rules::policies::ReceiverKind;
use crate::rules::policy_keys;
use crate::rules::problem::{Source, code};
use crate::rules::reader::{Fields, Reader};
use crate::yaml::{self, Kind, Node, cut};

/// The folder beside policies.yaml that may hold them.
const FOLDER: &str = "templates";

/// What may be said in words of one's own, by the kind of receiver. Where a kind is missing, programs read its messages.
pub(in crate::rules) const FORMS: [(&str, &[Form]); 3] = [
    ("email", &[Form::Subject, Form::Text, Form::Html]),
    ("slack", &[Form::Slack]),
    ("pagerduty", &[Form::Summary]),
];

/// The files that a policies.yaml names as templates. Wrong names are left out: reading the file says what is wrong.
#[must_use]
pub fn template_files(policies: &SourceFile) -> Vec<PathBuf> {
    let text = policies.content.as_ref().ok().and_then(|bytes| yaml::decode(bytes).ok());
    let Some((Some(root), _)) = text.map(yaml::parse) else { return Vec::new() };
    let Some(Kind::Seq(receivers)) = root.get("receivers").map(|n| &n.kind) else { return Vec::new() };
    let mut files: Vec<PathBuf> = Vec::new();
    for templates in receivers.iter().filter_map(|r| r.get("templates")) {
        let Kind::Map(entries) = &templates.kind else { continue };
        let names = entries.iter().filter_map(|(_, n)| n.text()).filter(|n| is_name(n));
        files.extend(names.map(|n| folder(&policies.path).join(n)));
    }
    files.sort();
    files.dedup();
    files
}

fn folder(policies: &Path) -> &Path {
    policies.parent().unwrap_or(Path::new(""))
}

/// A file beside policies.yaml or in its folder `templates`, and none that would be taken for rules.
fn is_name(name: &str) -> bool {
    let path = Path::new(name);
    let parts: Vec<Component<'_>> = path.components().collect();
    let plain =
        |c: &Component<'_>| matches!(c, Component::Normal(p) if !p.to_string_lossy().starts_with('.'));
    let depth = match parts.as_slice() {
        [_] => true,
        [Component::Normal(folder), _] => *folder == FOLDER,
        _ => false,
    };
    let yaml =
        path.extension().is_some_and(|e| e.eq_ignore_ascii_case("yaml") || e.eq_ignore_ascii_case("yml"));
    depth && parts.iter().all(plain) && !yaml && !name.contains(['\0', '\n'])
}

/// Reads `templates:`; without it there are none. What the files hold is judged by [`super::check`].
pub(in crate::rules) fn templates(
    r: &mut Reader,
    names: &Names,
    receiver: &Fields<'_>,
    kind: &ReceiverKind,
) -> Templates {
    let Some((key, node)) = receiver.entry("templates") else { return Templates::default() };
    let Some((_, forms)) = FORMS.iter().find(|(name, _)| *name == kind.integration()) else {
        let message = format!("a receiver by `{}` takes no templates", kind.integration());
        let help = "its messages are read by programs, which rely on their form; remove `templates`, and let the other side make the text";
        r.error(code::CONTRADICTION, &key.at, message, help);
        return Templates::default();
    };
    let Some(fields) = r.object(node, "`templates`", &policy_keys::TEMPLATES) else {
        return Templates::default();
    };
    let mut all = Templates::default();
    for (name, key, node) in fields.iter() {
        let Some(form) = forms.iter().find(|f| f.key() == name) else {
            let message = format!("a receiver by `{}` has no `{name}`", kind.integration());
            let known: Vec<&str> = forms.iter().map(|f| f.key()).collect();
            r.error(
                code::CONTRADICTION,
                &key.at,
                message,
                format!("its templates are: {}", known.join(", ")),
            );
            continue;
        };
        let read = read(r, names, node, *form);
        match form {
            Form::Subject => all.subject = read,
            Form::Text | Form::Slack => all.text = read,
            Form::Html => all.html = read,
            Form::Summary => all.summary = read,
        }
    }
    if forms.contains(&Form::Html)
        && let (Some((key, _)), None) = (fields.entry("html"), fields.entry("text"))
    {
        let help = "name a text too: who reads mails as text, and every search, gets that; a `text` alone is a mail without HTML";
        r.error(code::MISSING_KEY, &key.at, "`html` stands without `text`", help);
    }
    all
}

fn read(r: &mut Reader, names: &Names, node: &Node, form: Form) -> Option<Template> {
    let name = r.text(node, "the name of a template")?;
    if !is_name(name) {
        let message = format!("`{}` cannot be a template's file", cut(name));
        let help = format!(
            "a template stands beside policies.yaml or in its folder {FOLDER}/, and is no YAML: ops.txt, {FOLDER}/ops.html"
        );
        r.error(code::BAD_VALUE, &node.at, message, help);
        return None;
    }
    let path = r.folder().join(name);
    let shown = cut(name);
    match names.templates.get(&path) {
        Some(Ok(source)) if source.text.len() > MAX_FILE => {
            let message = format!("the template `{shown}` is larger than {} kB", MAX_FILE >> 10);
            r.error(
                code::TOO_LARGE,
                &node.at,
                message,
                "a message that long is not read; keep data elsewhere",
            );
            None
        }
        Some(Ok(source)) => Some(Template { form, source: Arc::clone(source) }),
        Some(Err(why)) => {
            r.error(
                code::UNREADABLE,
                &node.at,
                format!("the template `{shown}`: {}", why.message),
                why.help.clone(),
            );
            None
        }
        None => {
            let help = "it stands beside policies.yaml, and its name is that of the file";
            r.error(code::UNREADABLE, &node.at, format!("there is no template `{shown}`"), help);
            None
        }
    }
}

/// A template's file as it was found.
pub(in crate::rules) fn source(file: &SourceFile) -> Result<Arc<Source>, crate::rules::Unreadable> {
    let bytes = file.content.as_ref().map_err(Clone::clone)?;
    if std::str::from_utf8(bytes).is_err() {
        return Err(crate::rules::Unreadable {
            message: "the file is not UTF-8".to_owned(),
            help: "save it as UTF-8".to_owned(),
        });
    }
    Ok(Arc::new(Source::new(file.path.clone(), bytes)))
}
