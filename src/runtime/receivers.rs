//! From policies and configuration to what delivers: one route per receiver.

use std::path::PathBuf;
use std::sync::Arc;

use super::dispatcher::Route;
use crate::notify::Notifier;
use crate::notify::alertmanager::Alertmanager;
use crate::notify::command::Command;
use crate::notify::email::{Email, EmailSettings};
use crate::notify::pagerduty::PagerDuty;
use crate::notify::slack::Slack;
use crate::notify::webhook::{Webhook, WebhookClient, WebhookError, WebhookSettings};
use crate::rules::Policies;
use crate::rules::policies::{Receiver, ReceiverKind, SecretText};

/// Reads a secret; the error says what is wrong, never what it holds.
pub type ReadSecret<'a> = &'a dyn Fn(&SecretText) -> Result<String, String>;

/// Makes the routes of all receivers, or says of each that cannot be reached why. To be called within a tokio runtime. Addresses
/// of mail receivers are not looked at here: each is a row's recipient. `commands`: programs, or directories of programs, that
/// may be run.
///
/// # Errors
/// Every problem at once, each with its receiver; none holds a secret.
pub fn routes(
    policies: &Policies,
    email: Option<EmailSettings>,
    webhook: WebhookSettings,
    commands: &[PathBuf],
    read: ReadSecret<'_>,
) -> Result<Vec<Route>, Vec<String>> {
    let mut problems = Vec::new();
    let mut sender: Option<Arc<Email>> = None;
    let mails = |r: &Receiver| matches!(r.kind, ReceiverKind::Email { .. });
    if policies.receivers.iter().any(&mails) {
        // One sender serves them all, each with its own texts.
        let of = |r: &Receiver| (r.id.clone(), r.templates.clone());
        let templates = policies.receivers.iter().filter(|r| mails(r)).map(of).collect();
        match email.map(|settings| Email::new(EmailSettings { templates, ..settings })) {
            Some(Ok(email)) => sender = Some(Arc::new(email)),
            Some(Err(error)) => problems.push(error.to_string()),
            None => problems
                .push("smtp.url and smtp.from are needed: policies.yaml has receivers by e-mail".to_owned()),
        }
    }
    let client = match WebhookClient::new(webhook) {
        Ok(client) => client,
        Err(error) => return Err(vec![error.to_string()]),
    };
    let mut routes = Vec::new();
    for receiver in &policies.receivers {
        let notifier: Result<Arc<dyn Notifier>, String> = match (&receiver.kind, &sender) {
            (ReceiverKind::Email { .. }, Some(email)) => Ok(email.clone()),
            (ReceiverKind::Email { .. }, None) => continue, // told above, once for all
            (_, _) => notifier(receiver, &client, commands, read),
        };
        match notifier {
            Ok(notifier) => {
                let integration = receiver.kind.integration();
                let restated = if notifier.forgets() { receiver.kind.recipients() } else { Vec::new() };
                routes.push(Route { receiver: receiver.id.clone(), integration, notifier, restated });
            }
            Err(problem) => problems.push(format!("receiver {}: {problem}", receiver.id)),
        }
    }
    if problems.is_empty() { Ok(routes) } else { Err(problems) }
}

/// What delivers to a receiver other than by mail.
fn notifier(
    receiver: &Receiver,
    client: &WebhookClient,
    commands: &[PathBuf],
    read: ReadSecret<'_>,
) -> Result<Arc<dyn Notifier>, String> {
    let words = |e: WebhookError| e.to_string();
    let templates = receiver.templates.clone();
    match &receiver.kind {
        ReceiverKind::Email { .. } => Err("a mail receiver has no route of its own".to_owned()),
        ReceiverKind::Webhook { url, secret } => Ok(Arc::new(hook(client, url, secret.as_ref(), read)?)),
        ReceiverKind::Slack { url } => {
            let url = read(url).map_err(|e| format!("url: {e}"))?;
            Ok(Arc::new(Slack::new(client, &url).map_err(words)?.with_templates(templates)))
        }
        ReceiverKind::PagerDuty { routing_key, url } => {
            let key = read(routing_key).map_err(|e| format!("routing_key: {e}"))?;
            let pager = PagerDuty::new(client, url.as_deref(), &key).map_err(words)?;
            Ok(Arc::new(pager.with_templates(templates)))
        }
        ReceiverKind::Alertmanager { urls } => Ok(Arc::new(Alertmanager::new(client, urls).map_err(words)?)),
        ReceiverKind::Command { argv, timeout } => {
            Ok(Arc::new(Command::new(argv, *timeout, commands).map_err(|e| e.to_string())?))
        }
    }
}

fn hook(
    client: &WebhookClient,
    url: &SecretText,
    secret: Option<&SecretText>,
    read: ReadSecret<'_>,
) -> Result<Webhook, String> {
    let url = read(url).map_err(|e| format!("url: {e}"))?;
    let secret = secret.map(read).transpose().map_err(|e| format!("secret: {e}"))?;
    Webhook::new(client, &url, secret.as_deref()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policies(receivers: &[(&str, ReceiverKind)]) -> Policies {
        let receiver = |(id, kind): &(&str, ReceiverKind)| Receiver::new(*id, kind.clone());
        Policies { receivers: receivers.iter().map(receiver).collect(), ..Policies::default() }
    }

    fn webhook(url: &str, secret: Option<SecretText>) -> ReceiverKind {
        ReceiverKind::Webhook { url: SecretText::Plain(url.to_owned()), secret }
    }

    fn read(secret: &SecretText) -> Result<String, String> {
        match secret {
            SecretText::Plain(text) => Ok(text.clone()),
            _ => Err("the file is not there".to_owned()),
        }
    }

    #[tokio::test]
    async fn every_receiver_gets_a_route() {
        let all = policies(&[
            ("ops_mail", ReceiverKind::Email { to: vec!["ops@example.org".into()] }),
            ("erp", webhook("https://erp.example.org/hook", None)),
        ]);
        let email = Some(EmailSettings::new("smtp://localhost", "watch@example.org"));
        let routes = routes(&all, email, WebhookSettings::default(), &[], &read).unwrap();
        let shown: Vec<_> = routes.iter().map(|r| (r.receiver.as_str(), r.integration)).collect();
        assert_eq!(shown, [("ops_mail", "email"), ("erp", "webhook")]);
    }

    #[tokio::test]
    async fn all_problems_come_at_once_and_show_no_secret() {
        let all = policies(&[
            ("ops_mail", ReceiverKind::Email { to: vec![] }),
            ("inside", webhook("http://169.254.169.254/?token=s3cret", None)),
            ("unread", webhook("https://a.example/", Some(SecretText::Env("X".into())))),
            ("unsigned", webhook("https://a.example/", Some(SecretText::Plain("hunter2".into())))),
        ]);
        let problems = routes(&all, None, WebhookSettings::default(), &[], &read).err().unwrap();
        let text = problems.join("\n");
        for says in [
            "smtp.url",
            "receiver inside: 169.254.169.254",
            "receiver unread: secret: ",
            "receiver unsigned: ",
        ] {
            assert!(text.contains(says), "{says} is not in\n{text}");
        }
        assert!(!text.contains("s3cret") && !text.contains("hunter2"), "{text}");
    }
}
