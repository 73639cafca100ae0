//! Statements for many jobs at once.
//!
//! What jobs of a kind ask while a statement is under way is asked by the next one, together:
//! nobody waits for company, and the more there is to do, the fewer statements a job takes.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::{
    sync::{Semaphore, oneshot},
    time::sleep,
};

use super::{Failure, jittered};
use crate::platform::db::{self, Db};

/// Questions that one statement asks, at most.
const MOST: usize = 200;

/// How often a statement is sent that met others' locks, or did not get through, and the first
/// pause in between, each being four times the last. What is to be recorded has happened already,
/// and would happen again.
const TRIES: usize = 4;
const PAUSE: Duration = Duration::from_millis(100);

/// Gathers questions `Q` that are answered by an `A` each.
pub struct Batch<Q, A> {
    calls: Mutex<Vec<Call<Q, A>>>,
    /// The turn to ask.
    turn: Semaphore,
}

struct Call<Q, A> {
    question: Q,
    answer: oneshot::Sender<Result<A, String>>,
}

/// Asks all the questions and gives as many answers, in the same order. Asking twice must do no
/// harm: nobody knows whether a statement was done whose answer is lost.
pub type Ask<Q, A> = fn(Db, Arc<[Q]>) -> BoxFuture<'static, Result<Vec<A>, db::Error>>;

impl<Q: Clone, A> Batch<Q, A> {
    /// The answer to `question`. All calls of a batch give the same `ask`; whoever has the turn
    /// asks for all who wait.
    ///
    /// # Errors
    /// The statement failed.
    pub async fn call(&self, db: &Db, question: Q, ask: Ask<Q, A>) -> Result<A, Failure> {
        loop {
            // Without an answer the job that asked has ended in the middle, and another has to.
            if let Some(answer) = self.ask_once(db, question.clone(), ask).await {
                return answer.map_err(Failure::retry);
            }
        }
    }

    async fn ask_once(&self, db: &Db, question: Q, ask: Ask<Q, A>) -> Option<Result<A, String>> {
        let (answer, mut answered) = oneshot::channel();
        self.calls().push(Call { question, answer });
        loop {
            let turn = tokio::select! {
                biased;
                answer = &mut answered => return answer.ok(),
                turn = self.turn.acquire() => turn,
            };
            self.ask_all(db, ask).await;
            drop(turn);
        }
    }

    async fn ask_all(&self, db: &Db, ask: Ask<Q, A>) {
        let calls: Vec<_> = {
            let mut calls = self.calls();
            let count = calls.len().min(MOST);
            calls.drain(..count).collect()
        };
        if calls.is_empty() {
            return;
        }
        let (questions, senders): (Vec<_>, Vec<_>) =
            calls.into_iter().map(|call| (call.question, call.answer)).unzip();
        match ask_patiently(db, questions.into(), ask).await {
            Ok(answers) => {
                for (sender, answer) in senders.into_iter().zip(answers) {
                    let _ = sender.send(Ok(answer));
                }
            }
            Err(error) => {
                let why = error.to_string();
                for sender in senders {
                    let _ = sender.send(Err(why.clone()));
                }
            }
        }
    }

    fn calls(&self) -> MutexGuard<'_, Vec<Call<Q, A>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask_patiently<Q, A>(
    db: &Db,
    questions: Arc<[Q]>,
    ask: Ask<Q, A>,
) -> Result<Vec<A>, db::Error> {
    let mut pause = PAUSE;
    for _ in 1..TRIES {
        match ask(db.clone(), questions.clone()).await {
            Err(error) if error.is_unreachable() || matches!(error, db::Error::Busy(_)) => {
                tracing::debug!(%error, "what many jobs asked together is asked again");
                sleep(jittered(pause)).await;
                pause *= 4;
            }
            ended => return ended,
        }
    }
    ask(db.clone(), questions).await
}

impl<Q, A> Default for Batch<Q, A> {
    fn default() -> Self {
        Self { calls: Mutex::default(), turn: Semaphore::new(1) }
    }
}
