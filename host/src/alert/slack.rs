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

fn body(notice: &Notice) -> Value {
    let sign = match notice.severity() {
        Severity::Info => ":information_source:",
        Severity::Warning => ":warning:",
        Severity::Critical => ":rotating_light:",
    };
    let title = escape(&notice.title());
    let lines = notice.lines().into_iter().map(|(label, text)| format!("*{}*: {}", escape(&label), escape(&text)));
    let text: String = lines.collect::<Vec<_>>().join("\n").chars().take(LONGEST_TEXT).collect();
    json!({
        // What notifications and screen readers have.
        "text": title,
        "blocks": [
            { "type": "section", "text": { "type": "mrkdwn", "text": format!("{sign} *{title}*") } },
            { "type": "section", "text": { "type": "mrkdwn", "text": text } },
            { "type": "context", "elements": [{ "type": "mrkdwn", "text": format!("Tollgate, alert {}", notice.id) }] },
        ],
    })
}

/// Names are not markup: no `<!channel>`, no link, no bold. A space of no width parts what would be a mark.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '*' | '_' | '~' | '`' => {
                escaped.push(c);
                escaped.push('\u{200b}');
            }
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn a_tenants_name_calls_nobody() {
        assert_eq!(escape("<!channel> a&b"), "&lt;!channel&gt; a&amp;b");
        assert_eq!(escape("a\nb *c*"), "a b *\u{200b}c*\u{200b}");
    }
}
