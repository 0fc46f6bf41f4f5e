//! The system's resolver, which may hang: a limited number of the runtime's threads call it. Its answers for the
//! profiles' names are cached.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

/// Questions at once. Half of the threads that the runtime has for what blocks, so that a knock finds one free.
const MAX_QUESTIONS: usize = 256;
/// How long the addresses of a profile's name are cached. A target given by its own name is never looked up here.
const ADDRESSES_TTL: Duration = Duration::from_secs(60);
/// How long it is cached that there are none: the resolver may have been unreachable for a moment.
const NO_ADDRESSES_TTL: Duration = Duration::from_secs(5);

/// Asks for the addresses of a name, which have the port.
type Ask = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// The resolver.
#[derive(Clone, Debug)]
pub(super) struct Resolver {
    ask: Ask,
    room: Arc<Semaphore>,
}

impl Resolver {
    pub(super) fn new(ask: Ask) -> Self {
        Self { ask, room: Arc::new(Semaphore::new(MAX_QUESTIONS)) }
    }

    /// The addresses of `name`.
    pub(super) async fn resolve(&self, name: String, port: u16) -> io::Result<Vec<SocketAddr>> {
        // Never closed. The thread holds the permit, since it runs on when the caller has stopped waiting.
        let permit = Arc::clone(&self.room).acquire_owned().await.map_err(io::Error::other)?;
        let ask = self.ask;
        let asked = spawn_blocking(move || {
            let _permit = permit;
            ask(&name, port)
        });
        asked.await?
    }
}

/// What the profiles' names resolve to. An answer that comes too late for one target serves the next, and targets wait
/// for a resolver that hangs only once.
#[derive(Debug)]
pub(super) struct NameCache {
    resolver: Resolver,
    /// How long a question is waited for, by all who ask it.
    patience: Duration,
    questions: Mutex<HashMap<String, Question>>,
}

/// A question to the resolver, and the answer when there is one.
#[derive(Clone, Debug)]
struct Question {
    asked: Instant,
    answer: watch::Receiver<Option<Vec<SocketAddr>>>,
}

impl Question {
    fn is_over(&self) -> bool {
        let found_none = self.answer.borrow().as_ref().is_some_and(Vec::is_empty);
        self.asked.elapsed() >= if found_none { NO_ADDRESSES_TTL } else { ADDRESSES_TTL }
    }

    async fn answer(&mut self, end: Instant) -> Vec<SocketAddr> {
        match timeout_at(end, self.answer.wait_for(Option::is_some)).await {
            Ok(Ok(answer)) => answer.clone().unwrap_or_default(),
            // Not in time, or never: the thread died.
            Err(_) | Ok(Err(_)) => Vec::new(),
        }
    }
}

impl NameCache {
    pub(super) fn new(resolver: Resolver, patience: Duration) -> Self {
        Self { resolver, patience, questions: Mutex::default() }
    }

    /// The addresses of each of `names`; none where the resolver has none or has not answered in time. All are asked
    /// for at once.
    pub(super) async fn resolve(&self, names: &[&str]) -> Vec<Vec<SocketAddr>> {
        let asked: Vec<Question> = names.iter().map(|name| self.question(name)).collect();
        let mut answers = Vec::with_capacity(asked.len());
        for mut question in asked {
            answers.push(question.answer(question.asked + self.patience).await);
        }
        answers
    }

    fn question(&self, name: &str) -> Question {
        // A thread that panics leaves the map consistent.
        let mut questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(question) = questions.get(name).filter(|question| !question.is_over()) {
            return question.clone();
        }
        let (tell, answer) = watch::channel(None);
        let (resolver, wanted) = (self.resolver.clone(), name.to_owned());
        tokio::spawn(async move {
            let addresses = resolver.resolve(wanted, 0).await.unwrap_or_default();
            tell.send_replace(Some(addresses));
        });
        let question = Question { asked: Instant::now(), answer };
        questions.insert(name.to_owned(), question.clone());
        question
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(100);

    #[expect(clippy::unnecessary_wraps, reason = "as a resolver")]
    fn slow(_: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        std::thread::sleep(PATIENCE * 3);
        Ok(vec![SocketAddr::from(([127, 0, 0, 9], port))])
    }

    #[tokio::test]
    async fn a_resolver_that_hangs_is_waited_for_once_and_its_late_answer_is_believed() {
        let names = NameCache::new(Resolver::new(slow), PATIENCE);
        let timed = async || {
            let start = Instant::now();
            let answer = names.resolve(&["slow.example"]).await;
            (answer.concat().len(), start.elapsed())
        };
        let (found, took) = timed().await;
        assert!(found == 0 && took >= PATIENCE, "{found} {took:?}");
        let (found, took) = timed().await;
        assert!(found == 0 && took < PATIENCE / 2, "{found} {took:?}");
        while timed().await.0 == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn questions_that_nobody_waits_for_any_more_still_count() {
        let resolver = Resolver::new(slow);
        let mut asked = tokio::task::JoinSet::new();
        for _ in 0..MAX_QUESTIONS {
            let resolver = resolver.clone();
            asked.spawn(async move { resolver.resolve("slow.example".to_owned(), 0).await });
        }
        while resolver.room.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        asked.shutdown().await;
        assert_eq!(resolver.room.available_permits(), 0, "the threads hang on");
        let start = Instant::now();
        resolver.resolve("slow.example".to_owned(), 0).await.unwrap();
        assert!(start.elapsed() > PATIENCE * 3, "one more waits until one of them is done");
    }
}
