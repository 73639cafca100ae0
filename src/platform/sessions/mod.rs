//! Sessions: durable in Postgres, hot in Redis.
//!
//! A session is begun at log-in, kept alive by refresh tokens (256 random bits, stored as
//! SHA-256, single use), and ended by revocation, which every replica honours within 5 s:
//!
//! - `revoke` commits in Postgres, then overwrites the Redis entry with `revoked` for as long as
//!   an access token of the session can live.
//! - An `active` entry is only ever set where there is none, so a slow reader cannot put it back
//!   over a `revoked` one, and it lives so shortly that even a lost `revoked` entry is made up
//!   for in time. Its end is an instant of Redis' clock that is fixed before Postgres is asked:
//!   a Redis that freezes does what it was sent when it thaws, however late that is.

mod queries;

use std::{
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use deadpool_redis::redis::cmd;
use moka::future::Cache;
use rand::Rng;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub use self::queries::Session;
use super::{
    consistency,
    db::{self, Consistency, Db, Lsn, Tx},
    redis::Redis,
};

/// How long an `active` entry lives in Redis, and how long this process trusts what it read.
/// Their sum, plus the slowest load that is still trusted, stays below the promised 5 s.
const SHARED_TTL: Duration = Duration::from_millis(2_500);
const LOCAL_TTL: Duration = Duration::from_millis(2_000);

/// Sessions remembered by this process for when Redis is away.
const REMEMBERED_SESSIONS: u64 = 50_000;

const ACTIVE: &str = "active";
const REVOKED: &str = "revoked";

#[derive(Clone)]
pub struct Config {
    /// A session that is not refreshed for this long ends.
    pub idle_lifetime: Duration,
    /// A session ends after this long, refreshed or not.
    pub absolute_lifetime: Duration,
    /// How long an access token can outlive its session: a `revoked` entry must live longer.
    pub access_token_lifetime: Duration,
}

/// Where a session was begun: shown to its owner, so that a strange one is noticed.
#[derive(Debug, Clone)]
pub struct Origin {
    pub ip: IpAddr,
    pub user_agent: String,
}

/// A session and the refresh token that continues it.
pub struct Grant {
    pub session_id: Uuid,
    pub user_id: Uuid,
    pub refresh_token: SecretString,
}

/// What Redis knows of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Active,
    Revoked,
    /// Nobody asked lately, or Redis is away: Postgres has to be asked.
    Unknown,
}

impl State {
    /// Reads the value of [`Sessions::key`].
    pub fn parse(value: Option<&str>) -> Self {
        match value {
            Some(ACTIVE) => Self::Active,
            Some(REVOKED) => Self::Revoked,
            // Nothing, or an entry of another version, which is looked at again.
            _ => Self::Unknown,
        }
    }
}

/// What all keys in Redis that belong to one user contain, so that one script may touch them.
pub fn user_tag(user_id: Uuid) -> impl fmt::Display {
    fmt::from_fn(move |formatter| write!(formatter, "{{user:{user_id}}}"))
}

/// Begins, continues, checks and ends sessions. Cheap to clone.
#[derive(Clone)]
pub struct Sessions {
    db: Db,
    redis: Redis,
    config: Arc<Config>,
    /// What Postgres said, and when it was asked. Also merges concurrent questions.
    answers: Cache<Uuid, (bool, Instant)>,
}

impl Sessions {
    pub fn new(config: Config, db: Db, redis: Redis) -> Self {
        Self {
            db,
            redis,
            config: Arc::new(config),
            answers: Cache::builder()
                .max_capacity(REMEMBERED_SESSIONS)
                .time_to_live(LOCAL_TTL)
                .build(),
        }
    }

    /// Begins a session in the caller's transaction.
    ///
    /// # Errors
    /// The database refused.
    pub async fn begin(
        &self,
        tx: &mut Tx,
        user_id: Uuid,
        origin: &Origin,
    ) -> Result<Grant, sqlx::Error> {
        let session_id = Uuid::now_v7();
        queries::insert(tx, session_id, user_id, origin, self.config.absolute_lifetime).await?;
        self.grant(tx, session_id, user_id).await
    }

    /// Trades a refresh token for the next one, in the caller's transaction. `None` for one that
    /// is unknown, expired, used or revoked; tell [`Sessions::refuse`] then.
    ///
    /// # Errors
    /// The database refused.
    pub async fn refresh(
        &self,
        tx: &mut Tx,
        token: &SecretString,
    ) -> Result<Option<Grant>, sqlx::Error> {
        let Some((session_id, user_id)) = queries::spend_token(tx, &hash(token)).await? else {
            return Ok(None);
        };
        queries::touch(tx, session_id).await?;
        self.grant(tx, session_id, user_id).await.map(Some)
    }

    /// Ends the session of a token that was refused because it was used before: either its owner
    /// or a thief holds a copy, and nobody can tell which.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn refuse(&self, token: &SecretString) -> Result<(), db::Error> {
        let mut conn = self.db.primary().await?;
        let reused = queries::find_spent_token(&mut conn, &hash(token)).await?;
        drop(conn);
        if let Some((session_id, user_id)) = reused {
            tracing::warn!(%session_id, "a refresh token came twice: session revoked");
            self.revoke(user_id, session_id).await?;
        }
        Ok(())
    }

    /// The live sessions of a user, newest first.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn list(&self, user_id: Uuid) -> Result<Vec<Session>, db::Error> {
        let mut conn = self.db.primary().await?;
        Ok(queries::list(&mut conn, user_id).await?)
    }

    /// Ends one session of a user. `false` if there is no such live session.
    ///
    /// # Errors
    /// The database cannot be reached; the session may live on.
    pub async fn revoke(&self, user_id: Uuid, session_id: Uuid) -> Result<bool, db::Error> {
        let mut tx = self.db.begin().await?;
        let revoked = queries::revoke(&mut tx, user_id, session_id).await?;
        tx.commit().await?;
        if revoked {
            self.spread_revocation(user_id, &[session_id]).await;
        }
        Ok(revoked)
    }

    /// Ends all sessions of a user in the caller's transaction, `except` one if given. Once it
    /// is committed, hand the result to [`Sessions::spread_revocation`].
    ///
    /// # Errors
    /// The database refused.
    pub async fn revoke_all(
        &self,
        tx: &mut Tx,
        user_id: Uuid,
        except: Option<Uuid>,
    ) -> Result<Vec<Uuid>, sqlx::Error> {
        queries::revoke_all(tx, user_id, except).await
    }

    /// Tells the fleet of committed revocations.
    pub async fn spread_revocation(&self, user_id: Uuid, sessions: &[Uuid]) {
        let lifetime = self.config.access_token_lifetime + Duration::from_secs(60);
        for session_id in sessions {
            self.answers.invalidate(session_id).await;
            let mut set = cmd("SET");
            set.arg(self.key(user_id, *session_id)).arg(REVOKED);
            set.arg("EX").arg(lifetime.as_secs());
            // Without Redis the short life of an `active` entry does the same a little later.
            let _ = self.redis.run::<()>(&set).await;
        }
    }

    /// Whether a session is live, as Postgres says.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn is_live(&self, user_id: Uuid, session_id: Uuid) -> Result<bool, db::Error> {
        let load = async {
            let asked = Instant::now();
            let live = match self.ask_primary(user_id, session_id).await {
                Err(error) if error.is_unreachable() => self.ask_replica(session_id).await?,
                answer => answer?,
            };
            Ok::<_, db::Error>((live, asked))
        };
        let answer = self.answers.try_get_with(session_id, load).await;
        let (live, asked) =
            answer.map_err(|error| db::Error::Unreachable("primary", error.to_string()))?;
        if asked.elapsed() > LOCAL_TTL {
            // Loaded slowly: good for the requests that waited for it, not for later ones.
            self.answers.invalidate(&session_id).await;
        }
        Ok(live)
    }

    /// Those of the sessions that are live, asked past everything that is remembered: for what
    /// goes on for longer than a request.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn live_among(&self, sessions: &[Uuid]) -> Result<Vec<Uuid>, db::Error> {
        let ask = async |conn: Result<db::Conn, db::Error>| {
            Ok::<_, db::Error>(queries::live_among(&mut conn?, sessions).await?)
        };
        match ask(self.db.primary().await).await {
            // Neither is a primary that is only too busy for this process a reason to end anything:
            // what its replicas are behind it is less than a second.
            Err(error) if error.is_unreachable() || matches!(error, db::Error::Busy(_)) => {
                ask(self.believable_replica().await).await
            }
            answer => answer,
        }
    }

    async fn ask_primary(&self, user_id: Uuid, session_id: Uuid) -> Result<bool, db::Error> {
        let entry_end = self.entry_end().await;
        // A replica may lag behind the revocation.
        let mut conn = self.db.primary().await?;
        let (live, lsn) = queries::is_live(&mut conn, session_id).await?;
        drop(conn);
        if let Some(end) = entry_end {
            let mut set = cmd("SET");
            set.arg(self.key(user_id, session_id)).arg(if live { ACTIVE } else { REVOKED });
            // NX: never over a `revoked` that came in between.
            set.arg("NX").arg("PXAT").arg(end);
            // Whatever the user was told of by now lies before this, even if Redis forgot about it.
            let mut position = cmd("SET");
            position.arg(consistency::key(&self.redis, user_id)).arg(lsn.sortable());
            position.arg("NX").arg("EX").arg(consistency::REMEMBERED_FOR.as_secs());
            let _ = tokio::join!(
                self.redis.run::<Option<String>>(&set),
                self.redis.run::<Option<String>>(&position),
            );
        }
        Ok(live)
    }

    async fn ask_replica(&self, session_id: Uuid) -> Result<bool, db::Error> {
        Ok(queries::is_live_here(&mut self.believable_replica().await?, session_id).await?)
    }

    /// While the primary is away a replica that has all that the primary was seen to have is
    /// believed: nobody can end a session then, unless it is away from this process alone.
    async fn believable_replica(&self) -> Result<db::Conn, db::Error> {
        let position = self.db.position();
        if position == Lsn::default() {
            // Never seen: any replica would do, however old.
            return Err(db::Error::Unreachable("primary", "it was never seen".to_owned()));
        }
        self.db.read(&Consistency::AtLeast(position)).await
    }

    /// When an entry for an answer that is asked for now has to be gone: milliseconds since 1970
    /// by Redis' clock. `None` while it is away.
    async fn entry_end(&self) -> Option<u64> {
        let (seconds, micros) = self.redis.run::<(u64, u64)>(&cmd("TIME")).await.ok()?;
        Some(seconds * 1_000 + micros / 1_000 + SHARED_TTL.as_millis() as u64)
    }

    async fn grant(
        &self,
        tx: &mut Tx,
        session_id: Uuid,
        user_id: Uuid,
    ) -> Result<Grant, sqlx::Error> {
        let mut bytes = [0_u8; 32];
        rand::rng().fill_bytes(&mut bytes);
        let refresh_token = SecretString::from(URL_SAFE_NO_PAD.encode(bytes));
        let hash = hash(&refresh_token);
        queries::insert_token(tx, session_id, &hash, self.config.idle_lifetime).await?;
        Ok(Grant { session_id, user_id, refresh_token })
    }

    /// Where Redis keeps the [`State`].
    pub fn key(&self, user_id: Uuid, session_id: Uuid) -> String {
        self.redis.key(format_args!("session:{}:{session_id}", user_tag(user_id)))
    }
}

fn hash(token: &SecretString) -> [u8; 32] {
    Sha256::digest(token.expose_secret().as_bytes()).into()
}
