use super::*;

async fn fill(lanes: &Lanes, receiver: Uuid, count: usize) -> Vec<Place> {
    let mut places = Vec::new();
    for _ in 0..count {
        places.push(lanes.enter(receiver).await.ok().unwrap());
    }
    places
}

/// As if the request had taken so long.
fn leave(mut place: Place, took: Duration) {
    place.since = Some(Instant::now().checked_sub(took).unwrap());
    place.end();
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_leaves_the_slots_to_others() {
    let (lanes, slow, other) = (Lanes::new(), Uuid::now_v7(), Uuid::now_v7());
    let places = fill(&lanes, slow, FIRST).await;
    let delay = lanes.enter(slow).await.err().expect("more than its share");
    assert!(delay >= QUICK / 2, "it may turn out to be quick: {delay:?}");
    fill(&lanes, other, FIRST).await;
    for place in places {
        leave(place, Duration::from_secs(15));
    }
    let narrow = fill(&lanes, slow, LEAST).await;
    let mut delays = Vec::new();
    for _ in 0..100 {
        delays.push(lanes.enter(slow).await.err().unwrap());
    }
    assert!(delays[0] > Duration::from_secs(5), "one at a time: {delays:?}");
    assert!(delays.iter().all(|delay| *delay <= LONGEST + QUICK), "{delays:?}");
    // It is well again.
    for place in narrow {
        leave(place, Duration::ZERO);
    }
    for _ in 0..MOST {
        leave(lanes.enter(slow).await.ok().unwrap(), Duration::ZERO);
    }
    fill(&lanes, slow, MOST).await;
}

#[tokio::test]
async fn a_quick_receiver_is_waited_for() {
    let (lanes, quick) = (Lanes::new(), Uuid::now_v7());
    let mut places = fill(&lanes, quick, FIRST).await;
    let place = places.pop().unwrap();
    let (entered, ()) = tokio::join!(lanes.enter(quick), async { leave(place, Duration::ZERO) });
    assert!(entered.is_ok());
}

#[tokio::test]
async fn a_lane_that_moves_is_waited_for_though_others_were_first() {
    let (lanes, receiver) = (Lanes::new(), Uuid::now_v7());
    let places = fill(&lanes, receiver, FIRST).await;
    let crowd = async {
        let waiting = (0..FIRST).map(|_| lanes.enter(receiver));
        let entered = futures::future::join_all(waiting).await;
        // None has learnt anything, so that nobody makes room for two.
        assert!(entered.iter().all(Result::is_ok));
    };
    let leave_slowly = async {
        for place in places {
            tokio::time::sleep(PATIENCE / 2).await;
            drop(place);
        }
    };
    tokio::join!(crowd, leave_slowly);
}

#[tokio::test]
async fn a_quick_receiver_that_hangs_is_left_alone_for_longer_and_longer() {
    let (lanes, receiver) = (Lanes::new(), Uuid::now_v7());
    for _ in FIRST..MOST {
        leave(lanes.enter(receiver).await.ok().unwrap(), Duration::ZERO);
    }
    let _places = fill(&lanes, receiver, MOST).await;
    let lane = lanes.lanes.get(&receiver).unwrap();
    lane.state().moved = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
    let mut last = Duration::ZERO;
    for _ in 0..MOST {
        last = lanes.enter(receiver).await.err().unwrap();
    }
    assert!(last > Duration::from_secs(9), "{last:?}");
}

#[tokio::test]
async fn nothing_is_learnt_from_what_was_not_sent() {
    let (lanes, receiver) = (Lanes::new(), Uuid::now_v7());
    for _ in 0..MOST {
        drop(lanes.enter(receiver).await.ok().unwrap());
    }
    let mut places = fill(&lanes, receiver, FIRST).await;
    assert!(lanes.enter(receiver).await.is_err(), "it is no wider");
    // Given up in the middle: it was not quick, and is not known to be slow.
    places.iter_mut().for_each(Place::begin);
    drop(places);
    let _places = fill(&lanes, receiver, FIRST).await;
    assert!(lanes.enter(receiver).await.is_err(), "it is no wider");
}

#[tokio::test]
async fn receivers_in_doubt_have_half_of_the_slots_together() {
    let lanes = Lanes::new();
    let mut places = Vec::new();
    let mut one_each = 0;
    for _ in 0..200 {
        let receiver = Uuid::now_v7();
        let before = places.len();
        for _ in 0..FIRST {
            places.extend(lanes.enter(receiver).await.ok());
        }
        one_each += usize::from(places.len() > before);
    }
    assert_eq!(places.len(), MOST_IN_DOUBT);
    assert!(one_each >= 100, "{one_each}");
    // Who finds no room waits for longer and longer.
    let late = Uuid::now_v7();
    assert!(lanes.enter(late).await.is_err());
    let lane = lanes.lanes.get(&late).unwrap();
    lane.state().moved = Instant::now().checked_sub(Duration::from_secs(64)).unwrap();
    let delay = lanes.enter(late).await.err().unwrap();
    assert!(delay > QUICK * 9 / 10, "a second for each that waits already: {delay:?}");
    let delay = lanes.enter(late).await.err().unwrap();
    assert!(delay > QUICK * 19 / 10, "{delay:?}");
    // Who has shown to be quick is not among them.
    leave(places.pop().unwrap(), Duration::from_secs(15));
    let quick = Uuid::now_v7();
    leave(lanes.enter(quick).await.ok().unwrap(), Duration::ZERO);
    fill(&lanes, quick, FIRST + 1).await;
}
