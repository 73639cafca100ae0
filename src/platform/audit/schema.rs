//! Whether the schema is that of this build, who changes it, and whether months are ready.

use std::collections::HashMap;

use time::{Date, Month, OffsetDateTime};

use super::{
    deployment::Deployment,
    finding::{Rule, Verdict, hold},
    postgres::Applied,
};
use crate::platform::{db::schema::MIGRATIONS, upkeep};

/// A schedule makes a month's partition once a day: this long after a month began it may not have
/// come to it yet.
const DAYS_TO_MAKE_THEM: i64 = 2;

/// What the database has, and what is to change it.
pub(super) struct Schema {
    /// `None` where nothing was ever applied.
    pub(super) applied: Option<Vec<Applied>>,
    pub(super) deployment: Deployment,
    /// Whether this process was given the way to change it.
    pub(super) has_direct_url: bool,
}

/// A table that is partitioned by month.
pub(super) struct Months {
    pub(super) table: String,
    pub(super) partitions: Vec<String>,
    /// Rows in its default partition, counted up to 1,000.
    pub(super) strays: i64,
    pub(super) today: Date,
}

pub(super) const RULES: [Rule<Schema>; 2] = [
    Rule {
        id: "schema.applied",
        why: "replicas are not ready on a schema that is older than they need",
        judge: |seen| applied(seen.applied.as_deref()),
    },
    Rule {
        id: "schema.separate",
        why: "of many replicas that start at once each would wait for the lock of the others, \
              and a bad migration would stop all of them",
        judge: |seen| {
            let culprits = &seen.deployment.migrate_at_start;
            let told = match (culprits.is_empty(), seen.has_direct_url) {
                (false, _) => format!("migrate whenever they start: {}", culprits.join(", ")),
                (true, true) => "nothing migrates when it starts, though DATABASE_DIRECT_URL is \
                                 set here: only `migrate` needs it"
                    .to_owned(),
                (true, false) => "nothing migrates when it starts".to_owned(),
            };
            let mend = "run `shoal migrate` as a Job of the deployment, before the replicas";
            hold(culprits.is_empty(), told, mend)
        },
    },
];

pub(super) const MONTHS: [Rule<Months>; 2] = [
    Rule {
        id: "partitions.ahead",
        why: "rows of a month without a partition go to the default one, which then has to be \
              emptied before the month can be made",
        judge: |seen| {
            let is_missing = |name: &String| !seen.partitions.contains(name);
            let wanted = wanted(&seen.table, seen.today);
            let missing: Vec<String> = wanted.into_iter().filter(is_missing).collect();
            if missing.is_empty() {
                let months = upkeep::MONTHS_AHEAD;
                return Verdict::Passed(format!("{months} months ahead"));
            }
            Verdict::Failed(
                format!("missing: {}", missing.join(", ")),
                "run a worker, whose schedule makes them, or see Partitions in \
                 docs/operations.md"
                    .to_owned(),
            )
        },
    },
    Rule {
        id: "partitions.default",
        why: "rows in a default partition keep the partition of their month from being made",
        judge: |seen| {
            hold(
                seen.strays == 0,
                format!("{} rows in the default partition", seen.strays),
                "move them as Partitions in docs/operations.md says",
            )
        },
    },
];

fn applied(applied: Option<&[Applied]>) -> Verdict {
    const MIGRATE: &str = "run `shoal migrate` with DATABASE_DIRECT_URL";
    let Some(applied) = applied else {
        return Verdict::Failed("never migrated".to_owned(), MIGRATE.to_owned());
    };
    let known: HashMap<i64, &Applied> = applied.iter().map(|one| (one.version, one)).collect();
    if let Some(failed) = applied.iter().find(|one| !one.has_succeeded) {
        let told = format!("{} was begun and not finished", failed.version);
        return Verdict::Failed(told, MIGRATE.to_owned());
    }
    let missing: Vec<String> = MIGRATIONS
        .iter()
        .filter(|migration| !known.contains_key(&migration.version))
        .map(|migration| migration.version.to_string())
        .collect();
    if !missing.is_empty() {
        return Verdict::Failed(format!("pending: {}", missing.join(", ")), MIGRATE.to_owned());
    }
    let changed = MIGRATIONS.iter().find(|migration| {
        let hexadecimal =
            |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        known
            .get(&migration.version)
            .is_some_and(|one| one.checksum != hexadecimal(&migration.checksum))
    });
    if let Some(changed) = changed {
        return Verdict::Failed(
            format!("{} is not what was applied under its number", changed.version),
            "undo the change to it, and write a new migration".to_owned(),
        );
    }
    let (all, own) = (applied.len(), MIGRATIONS.iter().count());
    Verdict::Passed(match all - own {
        0 => format!("all {own} migrations"),
        newer => format!("all {own} migrations, and {newer} of a newer build"),
    })
}

/// The partitions that are to be there: of this month and of those ahead.
fn wanted(table: &str, today: Date) -> Vec<String> {
    let made = today - time::Duration::days(DAYS_TO_MAKE_THEM);
    let (mut year, mut month) = (made.year(), made.month());
    let mut names = Vec::new();
    for _ in 0..=upkeep::MONTHS_AHEAD {
        names.push(format!("{table}_y{year}m{:02}", u8::from(month)));
        if month == Month::December {
            year += 1;
        }
        month = month.next();
    }
    // Those that are over need not be there any more.
    let this = format!("{table}_y{}m{:02}", today.year(), u8::from(today.month()));
    names.retain(|name| *name >= this);
    names
}

/// Of the months, all that there are.
pub(super) fn months(
    tables: Vec<(String, Vec<String>)>,
    strays: &HashMap<String, i64>,
) -> Vec<Months> {
    let today = OffsetDateTime::now_utc().date();
    let months = |(table, partitions): (String, Vec<String>)| {
        let strays = strays.get(&table).copied().unwrap_or_default();
        Months { table, partitions, strays, today }
    };
    tables.into_iter().map(months).collect()
}

#[cfg(test)]
mod tests {
    use time::macros::date;

    use super::*;

    #[test]
    fn months_ahead_are_wanted_once_there_was_time_to_make_them() {
        let november = ["t_y2026m11", "t_y2026m12", "t_y2027m01", "t_y2027m02"];
        assert_eq!(wanted("t", date!(2026 - 11 - 21)), november);
        assert_eq!(wanted("t", date!(2026 - 12 - 01)), november[1..]);
        let december = ["t_y2026m12", "t_y2027m01", "t_y2027m02", "t_y2027m03"];
        assert_eq!(wanted("t", date!(2026 - 12 - 03)), december);
    }

    #[test]
    fn a_schema_is_whole_or_it_is_told_what_is_wrong() {
        let all: Vec<Applied> = MIGRATIONS
            .iter()
            .map(|migration| Applied {
                version: migration.version,
                has_succeeded: true,
                checksum: migration.checksum.iter().map(|byte| format!("{byte:02x}")).collect(),
            })
            .collect();
        let told = |change: fn(&mut Vec<Applied>)| {
            let mut changed = all.clone();
            change(&mut changed);
            match applied(Some(&changed)) {
                Verdict::Failed(told, _) => told,
                verdict => format!("{verdict:?}"),
            }
        };
        assert!(told(|_| {}).starts_with("Passed"));
        assert!(
            told(|all| all.push(Applied { version: i64::MAX, ..all[0].clone() })).contains("newer")
        );
        assert!(told(|all| drop(all.pop())).starts_with("pending"));
        assert!(told(|all| all[0].has_succeeded = false).contains("not finished"));
        assert!(told(|all| all[0].checksum = String::new()).contains("not what was applied"));
        assert!(matches!(applied(None), Verdict::Failed(..)));
    }
}
