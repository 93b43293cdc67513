//! Slack's incoming webhooks, and what speaks their language: <https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>

use serde_json::{Value, json};

use super::SendError;
use super::notice::{Notice, Severity};
use super::webhook::{Poster, Webhook};

/// The longest text of a block.
const LONGEST_TEXT: usize = 3_000;

#[derive(Debug)]
pub(super) struct Slack {
    poster: Poster,
    to: Webhook,
}

impl Slack {
    pub(super) fn new(poster: Poster, to: Webhook) -> Self {
        Self { poster, to }
    }

    pub(super) async fn tell(&self, notice: &Notice) -> Result<(), SendError> {
        self.poster.post(&self.to, &body(notice)).await
    }
}

/// Names stand in elements of rich text, where nothing is markup: no `<!channel>`, no link, no bold. They are shown letter
/// by letter, so that what is copied from there is the name.
fn body(notice: &Notice) -> Value {
    let sign = match notice.severity() {
        Severity::Info => "information_source",
        Severity::Warning => "warning",
        Severity::Critical => "rotating_light",
    };
    let title = one_line(&notice.title());
    let mut lines = Vec::new();
    let mut left = LONGEST_TEXT;
    for (label, text) in notice.lines() {
        let label = if lines.is_empty() { one_line(&label) } else { format!("\n{}", one_line(&label)) };
        let text = format!(": {}", one_line(&text));
        let Some(rest) = left.checked_sub(label.chars().count() + text.chars().count()) else { break };
        left = rest;
        lines.extend([bold(&label), plain(&text)]);
    }
    json!({
        // What notifications and screen readers have, and what shows no blocks.
        "text": escape(&title),
        "mrkdwn": false,
        "blocks": [
            rich_text(&[json!({ "type": "emoji", "name": sign }), plain(" "), bold(&title)]),
            rich_text(&lines),
            { "type": "context", "elements": [{ "type": "plain_text", "text": format!("Tollgate, alert {}", notice.id) }] },
        ],
    })
}

fn rich_text(elements: &[Value]) -> Value {
    json!({ "type": "rich_text", "elements": [{ "type": "rich_text_section", "elements": elements }] })
}

fn plain(text: &str) -> Value {
    json!({ "type": "text", "text": text })
}

fn bold(text: &str) -> Value {
    json!({ "type": "text", "text": text, "style": { "bold": true } })
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Outside of rich text these three begin what is more than text, `<!channel>` for one.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;
    use crate::alert::{Kind, Subject};
    use crate::money::Money;
    use crate::period::{Period, Window};

    fn about(tenant: &str) -> Value {
        let at = DateTime::UNIX_EPOCH;
        let subject = Subject {
            quota_id: Uuid::nil(),
            scope: "tenant".to_owned(),
            scope_id: tenant.to_owned(),
            resource_type: "llm".to_owned(),
            period: Period::Lifetime,
            window: Window { start: at, end: None },
            limit: Money::from_nanos(10_000_000_000),
            spend: Money::from_nanos(8_000_000_000),
            enforced: true,
        };
        body(&Notice { id: Uuid::nil(), at, kind: Kind::Threshold(subject, 80) })
    }

    #[test]
    fn a_tenants_name_is_no_markup_and_can_be_copied() {
        let name = "<!channel> *a*_b_~c~`d` :tada: & <https://evil.example|acme>";
        let message = about(name);
        for text in
            [&message["blocks"][0]["elements"][0]["elements"][2], &message["blocks"][1]["elements"][0]["elements"][1]]
        {
            assert!(text["type"] == "text" && text["text"].as_str().is_some_and(|text| text.contains(name)), "{text}");
        }
        let everything = message.to_string();
        assert!(!everything.contains(r#""type":"mrkdwn""#) && !everything.contains('\u{200b}'), "{everything}");
        // The fallback is text, too, where the name would call everybody.
        let fallback = message["text"].as_str().unwrap_or_default();
        assert!(fallback.starts_with("tenant &lt;!channel&gt; *a*_b_~c~`d` :tada: &amp; &lt;https:"), "{fallback}");
        assert_eq!(message["mrkdwn"], false);
    }

    #[test]
    fn a_name_is_one_line() {
        let message = about("acme\nThen");
        assert_eq!(message["blocks"][1]["elements"][0]["elements"][1]["text"], ": tenant acme Then");
    }
}
