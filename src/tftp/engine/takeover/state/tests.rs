use super::*;
use crate::takeover::checkpoint_store::Limits;
use guideway_hash::FleetKey;

#[test]
fn unacknowledged_messages_are_due_soon_unless_the_peer_is_unresponsive() {
    let member = |n: u8| Member {
        name: format!("t{n}"),
        checkpoint_address: SocketAddr::from(([10, 0, 2, n], 6970)),
        tid_range: (20_000 + u16::from(n), 20_000 + u16::from(n)),
    };
    let membership = Arc::new(Membership::new(FleetKey::new([5; 16]), (1..=3).map(member).collect(), "t1").unwrap());
    let settings = Settings {
        listen: membership.me().checkpoint_address,
        checkpoint_timeout: Duration::ZERO,
        checkpoint_store: Limits::default(),
        membership,
    };
    let mut takeover = Takeover::new(&settings, 0, 0, Arc::default(), SpareSockets::new(&[]).unwrap());
    let now = Time(1_000_000_000);
    (takeover.last_hello, takeover.last_resend) = (Some(now), Some(now));
    assert_eq!(takeover.until_next(now), HELLO_INTERVAL);
    let number = takeover.links[1].record_sent(SentMessage::Hello, now).number;
    assert_eq!(takeover.until_next(now), HELLO_INTERVAL, "no peer has ever answered");
    takeover.links[1].mark_answered(now);
    assert_eq!(takeover.until_next(now), RESEND_INTERVAL);
    takeover.links[1].acknowledge(number);
    assert_eq!(takeover.until_next(now), HELLO_INTERVAL);
}
