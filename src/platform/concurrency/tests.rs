use super::{Bounds, Ended, Limiter, Outcome, Priority};

const BOUNDS: Bounds = Bounds { min: 10, max: 100 };

fn entered(limiter: &Limiter, route: usize, priority: Priority) -> usize {
    (0..1_000).take_while(|_| limiter.enter(route, priority)).count()
}

#[test]
fn reports_are_refused_before_reads_and_reads_before_writes() {
    let limiter = Limiter::new(BOUNDS, 3);
    assert_eq!(entered(&limiter, 0, Priority::Report), 50);
    assert_eq!(entered(&limiter, 1, Priority::Read), 40);
    assert!(!limiter.enter(0, Priority::Report));
    assert_eq!(entered(&limiter, 2, Priority::Write), 10);
    assert_eq!(limiter.in_progress(), 100);
    limiter.leave(2);
    assert!(!limiter.enter(0, Priority::Report) && !limiter.enter(1, Priority::Read));
    assert!(limiter.enter(2, Priority::Write));
}

#[test]
fn a_route_that_stalls_leaves_room_for_the_others() {
    let limiter = Limiter::new(BOUNDS, 2);
    assert_eq!(entered(&limiter, 0, Priority::Write), 75);
    assert_eq!(limiter.in_progress(), 75, "the refused ones are taken back");
    assert_eq!(entered(&limiter, 1, Priority::Read), 15);
}

/// Requests of one route that all began at `began`.
fn end(limiter: &Limiter, count: usize, began: u64, took: u64, outcome: Outcome) {
    let request =
        Ended { priority: Priority::Read, began, ended: began + took, client: 0, outcome };
    for _ in 0..count {
        limiter.learn(0, &request);
    }
}

const MILLI: u64 = 1_000;
const SECOND: u64 = 1_000 * MILLI;

#[test]
fn late_ones_cut_in_proportion_and_once_per_queue() {
    let limiter = Limiter::new(BOUNDS, 1);
    end(&limiter, 8, 0, 10 * MILLI, Outcome::Succeeded);
    assert_eq!(limiter.limit(), 100);
    // 120 ms are allowed: twice of what was needed, so half as many.
    end(&limiter, 8, SECOND, 240 * MILLI, Outcome::Succeeded);
    assert_eq!(limiter.limit(), 50);
    end(&limiter, 100, SECOND + MILLI, 2 * SECOND, Outcome::Failed);
    assert_eq!(limiter.limit(), 50, "these stood in the queue that the cut was made for");
    end(&limiter, 8, 4 * SECOND, 240 * MILLI, Outcome::Failed);
    assert_eq!(limiter.limit(), 25);
    for second in 5..100 {
        end(&limiter, 8, second * SECOND, 3 * SECOND, Outcome::Failed);
    }
    assert_eq!(limiter.limit(), 10, "not below the lower bound");
    end(&limiter, 8, 200 * SECOND, 10 * MILLI, Outcome::Succeeded);
    end(&limiter, 8, 201 * SECOND, 10 * MILLI, Outcome::Succeeded);
    assert_eq!(limiter.limit(), 40, "doubles in a second");
    for second in 202..210 {
        end(&limiter, 8, second * SECOND, 10 * MILLI, Outcome::Succeeded);
    }
    assert_eq!(limiter.limit(), 100, "not above the upper one");
}

#[test]
fn a_slow_minority_cuts_nothing() {
    let limiter = Limiter::new(BOUNDS, 1);
    end(&limiter, 8, 0, 10 * MILLI, Outcome::Succeeded);
    for second in 1..20 {
        // In one window: a fifth of them stalled.
        end(&limiter, 6, second * SECOND, 900 * MILLI, Outcome::Failed);
        end(&limiter, 24, second * SECOND, 10 * MILLI, Outcome::Succeeded);
    }
    assert_eq!(limiter.limit(), 100);
}

#[test]
fn neither_a_slow_client_nor_a_report_cuts_anything() {
    for (priority, client) in [(Priority::Write, 8_990 * MILLI), (Priority::Report, 0)] {
        let limiter = Limiter::new(BOUNDS, 1);
        end(&limiter, 8, 0, 10 * MILLI, Outcome::Succeeded);
        for second in 1..20 {
            let (began, ended) = (second * SECOND, (second + 9) * SECOND);
            let outcome = Outcome::Succeeded;
            for _ in 0..8 {
                limiter.learn(0, &Ended { priority, began, ended, client, outcome });
            }
        }
        assert_eq!(limiter.limit(), 100, "{priority:?}");
    }
}

#[test]
fn what_is_slower_for_good_is_believed_in_the_end() {
    let limiter = Limiter::new(BOUNDS, 1);
    end(&limiter, 8, 0, 10 * MILLI, Outcome::Succeeded);
    for second in 1..60 {
        end(&limiter, 8, second * SECOND, 400 * MILLI, Outcome::Succeeded);
    }
    assert_eq!(limiter.limit(), 10);
    for second in 60..3_600 {
        end(&limiter, 8, second * SECOND, 400 * MILLI, Outcome::Succeeded);
    }
    assert_eq!(limiter.limit(), 100);
}

#[test]
fn a_route_that_never_succeeded_cannot_be_late() {
    let limiter = Limiter::new(BOUNDS, 1);
    for second in 0..20 {
        end(&limiter, 8, second * SECOND, 900 * MILLI, Outcome::Failed);
    }
    assert_eq!(limiter.limit(), 100);
}
