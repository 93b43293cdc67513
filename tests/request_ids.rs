//! Whose a line of the log is: the id of its request and of its trace, which no caller can make into something else.

use std::io::{Read as _, Write as _};

use serde_json::{Value, json};

use crate::harness::{Answer, Binary, Database, Host, Scratch, guests, llm};

const ID: &str = "x-request-id";
const PARENT: &str = "traceparent";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// The tier `odd` has a policy that traps, and everything is logged from `level` on.
async fn gate(level: &str) -> (Binary, Database, Scratch) {
    let (database, files) = (Database::migrated().await, guests::own_folder());
    guests::install(&files, "hostile", "odd", &format!("{}[settings]\nbehaviour = \"panic\"\n", guests::PATIENT));
    database.run("INSERT INTO copilot_internal.tenants (tenant_id, tier) VALUES ('globex', 'odd')").await;
    database.quota("tenant acme-corp llm day", "50.00", "48.50").await;
    let policies = files.path().to_str().expect("a text");
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--policies", policies, "--log-level", level];
    (Binary::start(&arguments, &[("DATABASE_URL", &database.url())]), database, files)
}

async fn ask(gate: &Binary, path: &str, body: Value, headers: &[(&str, &[u8])]) -> Answer {
    let request = gate.request("POST", path).json(&body);
    Answer::of(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
}

/// Ends the gate; the lines of the log that are about a tenant, in the order in which they were written.
fn lines(gate: Binary) -> Vec<Value> {
    let log = gate.interrupt().log;
    let lines = log.iter().map(|line| serde_json::from_str::<Value>(line).expect("a JSON line"));
    lines.filter(|line| line["tenantId"].is_string()).collect()
}

fn is_new(id: &str) -> bool {
    id.parse::<uuid::Uuid>().is_ok_and(|id| id.get_version_num() == 7)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_a_request_has_the_id_that_its_answer_has() {
    let (gate, _database, _files) = gate("debug").await;
    let globex = json!({ "tenantId": "globex", "resourceType": "llm" });
    for (path, body, status, id) in [
        ("/v1/check", llm("1.00"), 200, "allowed"),
        ("/v1/check", llm("2.00"), 429, r#"denied "so", \n"#),
        ("/v1/check", globex.clone(), 503, "a policy that fails"),
        ("/v1/reservations", llm("1.00"), 201, "reserved"),
        ("/v1/reservations", globex, 503, "a policy that fails too"),
    ] {
        let answer = ask(&gate, path, body, &[(ID, id.as_bytes())]).await.expect_status(status);
        assert_eq!(answer.header(ID), id);
    }
    let lines = lines(gate);
    let told: Vec<_> = lines.iter().map(|line| (line["requestId"].as_str(), line["message"].as_str())).collect();
    let asked = "Checking LLM quota before request";
    let expected = [
        ("allowed", asked),
        ("allowed", "LLM quota check passed"),
        (r#"denied "so", \n"#, asked),
        (r#"denied "so", \n"#, "LLM quota check failed"),
        (r#"denied "so", \n"#, "Chat request denied due to LLM quota exceeded"),
        ("a policy that fails", asked),
        ("a policy that fails", "Policy failed"),
        ("reserved", asked),
        ("reserved", "LLM quota check passed"),
        ("a policy that fails too", asked),
        ("a policy that fails too", "Policy failed"),
    ];
    assert_eq!(told, expected.map(|(id, message)| (Some(id), Some(message))));
    assert!(lines.iter().all(|line| line["method"] == "POST"), "{lines:?}");
    let routes: Vec<_> = lines.iter().map(|line| &line["route"]).collect();
    assert!(routes[..7].iter().all(|route| *route == "/v1/check"), "{routes:?}");
    assert!(routes[7..].iter().all(|route| *route == "/v1/reservations"), "{routes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_an_id_gets_one_whatever_it_is_answered() {
    let host = Host::start().await;
    let answers = [
        host.check(llm("1.00")).await.expect_status(200),
        host.check(json!({ "tenantId": 1 })).await.expect_status(400),
        host.get("/v1/nothing").await.expect_status(404),
        host.delete("/v1/check").await.expect_status(405),
        host.post_text("/v1/costs", &" ".repeat(70_000)).await.expect_status(413),
        host.get("/livez").await.expect_status(200),
    ];
    let mut ids: Vec<&str> = answers.iter().map(|answer| answer.header(ID)).collect();
    assert!(ids.iter().all(|id| is_new(id)), "{ids:?}");
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), answers.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_could_harm_is_replaced_and_breaks_no_line() {
    let (gate, _database, _files) = gate("warn").await;
    let (longest, longer, long) = ("x".repeat(128), "x".repeat(129), "x".repeat(10_000));
    let hostile: [&[u8]; 6] = [b"", "Zürich".as_bytes(), b"\xff\xfe", b"a\tb", longer.as_bytes(), long.as_bytes()];
    let mut ids = Vec::new();
    for id in hostile {
        let answer = ask(&gate, "/v1/check", llm("2.00"), &[(ID, id)]).await.expect_status(429);
        ids.push(answer.header(ID).to_owned());
    }
    let two: [(&str, &[u8]); 2] = [(ID, b"one"), (ID, b"two")];
    ids.push(ask(&gate, "/v1/check", llm("2.00"), &two).await.header(ID).to_owned());
    assert!(ids.iter().all(|id| is_new(id)), "{ids:?}");
    let answer = ask(&gate, "/v1/check", llm("2.00"), &[(ID, longest.as_bytes())]).await;
    assert_eq!(answer.header(ID), longest);
    ids.push(longest);

    // A client that keeps to no rule: with a line break in its id it gets no answer but a 400 of the protocol.
    let address = gate.url.trim_start_matches("http://").to_owned();
    for line_break in ["\n", "\r\n ", "\r"] {
        let body = llm("2.00").to_string();
        let request = format!(
            "POST /v1/check HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n\
             x-request-id: evil{line_break}{{\"level\":\"forged\"}}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = std::net::TcpStream::connect(&address).expect("the gate");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 400") && !answer.contains("evil"), "{answer}");
    }
    // Two lines for each denial, and nothing else; that each line is one object, the harness sees to.
    let lines = lines(gate);
    let logged: Vec<_> = lines.iter().map(|line| line["requestId"].as_str().expect("an id")).collect();
    assert_eq!(logged, ids.iter().flat_map(|id| [id, id]).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_that_a_request_is_part_of_is_in_its_lines() {
    let (gate, _database, _files) = gate("tollgate::gate=warn").await;
    let parent = "00f067aa0ba902b7";
    let cases = [
        (format!("00-{TRACE}-{parent}-01"), true),
        (format!("cc-{TRACE}-{parent}-00-what-comes-later"), true),
        (format!("00-{TRACE}-{parent}-01-more"), false),
        (format!("ff-{TRACE}-{parent}-01"), false),
        (format!("00-{}-{parent}-01", TRACE.to_uppercase()), false),
        (format!("00-{}-{parent}-01", "0".repeat(32)), false),
        (format!("00-{TRACE}-{}-01", "0".repeat(16)), false),
        (format!("00-{TRACE}-{parent}"), false),
        (format!("00-{TRACE}0-{parent}-01"), false),
        ("nonsense".to_owned(), false),
        (String::new(), false),
    ];
    for (header, _) in &cases {
        ask(&gate, "/v1/check", llm("2.00"), &[(PARENT, header.as_bytes())]).await.expect_status(429);
    }
    let traces: Vec<Value> = lines(gate).iter().step_by(2).map(|line| line["traceId"].clone()).collect();
    let expected: Vec<Value> = cases.iter().map(|(_, taken)| if *taken { json!(TRACE) } else { Value::Null }).collect();
    assert_eq!(traces, expected);
}
