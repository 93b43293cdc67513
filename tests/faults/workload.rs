//! Applications that spend money through several hosts, repeat what was not answered, and remember what was.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::until;

const CALLERS: u64 = 8;

/// What was answered with success, in micro-dollars.
#[derive(Default)]
pub struct Answered {
    pub costs: HashMap<String, u64>,
    pub settles: HashMap<String, u64>,
    pub reservations: usize,
    pub degraded: usize,
    /// Of answers that came while the store could not be reached, in microseconds.
    pub degraded_micros: Vec<u64>,
}

pub struct Workload {
    callers: JoinSet<()>,
    shared: Arc<Shared>,
}

struct Shared {
    client: reqwest::Client,
    /// Of each host; it has another one after a restart.
    urls: Mutex<Vec<String>>,
    answered: Mutex<Answered>,
    answers: AtomicUsize,
    enough: AtomicBool,
}

/// A small generator: the same seed asks for the same.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

impl Workload {
    pub fn start(urls: Vec<String>, seed: u64) -> Self {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build();
        let shared = Arc::new(Shared {
            client: client.expect("a client"),
            urls: Mutex::new(urls),
            answered: Mutex::default(),
            answers: AtomicUsize::new(0),
            enough: AtomicBool::new(false),
        });
        let callers = (0..CALLERS).map(|caller| {
            let shared = shared.clone();
            async move { shared.call(caller, Dice(seed ^ (caller << 32))).await }
        });
        Self { callers: callers.collect(), shared }
    }

    /// A host listens somewhere else now.
    pub fn moved(&self, host: usize, url: &str) {
        url.clone_into(&mut self.shared.urls.lock().expect("no panic")[host]);
    }

    /// Waits for so many more answers.
    pub async fn answers(&self, more: usize) {
        let goal = self.shared.answers.load(Ordering::SeqCst) + more;
        until("more answers", || async { self.shared.answers.load(Ordering::SeqCst) >= goal }).await;
    }

    pub fn answered(&self) -> MutexGuard<'_, Answered> {
        self.shared.answered.lock().expect("no panic")
    }

    /// Every caller gets the answer that it waits for, and calls no more.
    pub async fn stop(&mut self) -> Answered {
        self.shared.enough.store(true, Ordering::SeqCst);
        while let Some(caller) = self.callers.join_next().await {
            caller.expect("no panic");
        }
        std::mem::take(&mut *self.shared.answered.lock().expect("no panic"))
    }
}

impl Shared {
    async fn call(&self, caller: u64, mut dice: Dice) {
        for n in 0.. {
            if self.enough.load(Ordering::SeqCst) {
                return;
            }
            let tenant = format!("t-{}", dice.roll(4));
            let usd = |micros: u64| format!("0.{micros:06}");
            let actual = dice.roll(20_000) + 1;
            if dice.roll(3) == 0 {
                let id = format!("c-{caller}-{n}");
                let cost =
                    json!({ "tenantId": tenant, "resourceType": "llm", "costId": id, "actualCostUsd": usd(actual) });
                self.answer(&mut dice, "/v1/costs", &cost).await;
                self.note(|answered| {
                    answered.costs.insert(id, actual);
                });
                continue;
            }
            let request = json!({
                "tenantId": tenant, "resourceType": "llm", "estimatedCostUsd": usd(dice.roll(20_000)), "ttlSeconds": 5,
                "requestId": format!("r-{caller}-{n}"),
            });
            let made = self.answer(&mut dice, "/v1/reservations", &request).await;
            let id = made["reservationId"].as_str().expect("an id").to_owned();
            self.note(|answered| answered.reservations += 1);
            match dice.roll(4) {
                0 => {}
                1 => {
                    // Whether it came in time is of no interest here.
                    let release = json!({ "tenantId": tenant });
                    self.answer(&mut dice, &format!("/v1/reservations/{id}/release"), &release).await;
                }
                _ => {
                    let settle = json!({ "tenantId": tenant, "actualCostUsd": usd(actual) });
                    self.answer(&mut dice, &format!("/v1/reservations/{id}/settle"), &settle).await;
                    self.note(|answered| {
                        answered.settles.insert(id, actual);
                    });
                }
            }
        }
    }

    fn note(&self, note: impl FnOnce(&mut Answered)) {
        note(&mut self.answered.lock().expect("no panic"));
        self.answers.fetch_add(1, Ordering::SeqCst);
    }

    /// Sends until it is answered, each time to any host.
    async fn answer(&self, dice: &mut Dice, path: &str, body: &Value) -> Value {
        loop {
            let url = {
                let urls = self.urls.lock().expect("no panic");
                let host = dice.roll(urls.len() as u64);
                urls[usize::try_from(host).expect("a small number")].clone()
            };
            let sent = Instant::now();
            let Ok(response) = self.client.post(format!("{url}{path}")).json(body).send().await else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            let status = response.status().as_u16();
            let answer: Value = response.json().await.unwrap_or_default();
            // 404: another host has promised it, and its reply from the store was lost; it will be in the books soon.
            // 507: this host has no room to keep it.
            match status {
                200 | 201 | 410 => {
                    if answer["degraded"] == true {
                        let micros = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
                        let mut answered = self.answered.lock().expect("no panic");
                        answered.degraded += 1;
                        answered.degraded_micros.push(micros);
                    }
                    return answer;
                }
                404 | 503 | 507 => tokio::time::sleep(Duration::from_millis(20)).await,
                other => panic!("{path} {body}: {other} {answer}"),
            }
        }
    }
}
