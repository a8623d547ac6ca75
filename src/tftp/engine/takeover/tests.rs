use super::*;
use crate::takeover::memory::Limits;
use guideway_hash::FleetKey;

#[test]
fn what_a_peer_has_not_answered_is_looked_for_soon_unless_it_is_mute() {
    let member = |n: u8| Member {
        name: format!("t{n}"),
        notes: SocketAddr::from(([10, 0, 2, n], 6970)),
        tids: (20_000 + u16::from(n), 20_000 + u16::from(n)),
    };
    let plan = Arc::new(Plan::new(FleetKey::new([5; 16]), (1..=3).map(member).collect(), "t1").unwrap());
    let settings = Settings { listen: plan.me().notes, wait: Duration::ZERO, memory: Limits::default(), plan };
    let mut takeover = Takeover::new(&settings, 0, 0, Arc::default(), Spares::new(&[]).unwrap());
    let now = Time(1_000_000_000);
    (takeover.greeted, takeover.missed) = (Some(now), Some(now));
    assert_eq!(takeover.idle(now), GREETING);
    let number = takeover.links[1].say(About::Hello, now).number;
    assert_eq!(takeover.idle(now), GREETING, "nobody was ever heard");
    takeover.links[1].heard(now);
    assert_eq!(takeover.idle(now), MISSED);
    takeover.links[1].acked(number);
    assert_eq!(takeover.idle(now), GREETING);
}
