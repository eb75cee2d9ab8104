//! What gathers between two looks, and that nothing waits for ever.

use proptest::prelude::*;

use super::*;

const TRANSMIT: u64 = 0b10;
const RECEIVE: u64 = 0b01;

impl Rig<'_> {
    /// Which queues the driver is told of.
    fn told(&mut self) -> u64 {
        self.net.take_interrupts(self.memory).queues
    }

    fn gathers(&self) -> bool {
        self.engine.gathers(&self.net)
    }

    fn send_one(&mut self) {
        self.send(Header::default(), &plain(60));
    }

    /// The driver takes back what it sees was sent, and asks for the next one.
    fn reap(&mut self) -> usize {
        let driver = &mut self.drivers[1];
        let count = core::iter::from_fn(|| driver.take_used()).count();
        driver.ask_for_next();
        count
    }
}

fn rig(memory: &FakeMemory, chosen: Features) -> Rig<'_> {
    let mut rig = Rig::new(memory, Features::EVENT_IDX | chosen, 0);
    rig.reap();
    rig.drivers[0].ask_for_next();
    rig
}

/// A guest that sends frame after frame notifies once.
#[test]
fn a_first_frame_goes_at_once_and_the_next_ones_together() {
    for chosen in [Features::empty(), Features::RING_PACKED] {
        let memory = FakeMemory::new(0x10_0000);
        let mut rig = rig(&memory, chosen);
        rig.send_one();
        assert!(rig.drivers[1].should_kick());
        assert_eq!(rig.turn(), Turn::Done);
        assert_eq!(rig.sent().len(), 1);
        assert!(rig.gathers());
        for _ in 0..5 {
            rig.send_one();
            assert!(!rig.drivers[1].should_kick());
        }
        assert_eq!(rig.turn(), Turn::Done);
        assert_eq!(rig.sent().len(), 5);
    }
}

/// A driver that sends on sees what was sent; one that waits hears of it with the next look.
#[test]
fn only_a_driver_that_has_not_seen_it_is_told_what_was_sent() {
    for chosen in [Features::empty(), Features::RING_PACKED] {
        for sees in [true, false] {
            let memory = FakeMemory::new(0x10_0000);
            let mut rig = rig(&memory, chosen);
            rig.send_one();
            let _ = rig.turn();
            assert_eq!(rig.told(), 0);
            if sees {
                assert_eq!(rig.reap(), 1);
                rig.send_one();
            }
            let _ = rig.turn();
            assert_eq!(rig.told(), if sees { 0 } else { TRANSMIT });
        }
    }
}

#[test]
fn a_look_that_finds_nothing_has_the_driver_notify_again() {
    let memory = FakeMemory::new(0x10_0000);
    let mut rig = rig(&memory, Features::empty());
    rig.send_one();
    let _ = rig.turn();
    assert_eq!(rig.turn(), Turn::Done);
    assert!(!rig.gathers());
    assert_eq!(rig.told(), TRANSMIT);
    rig.drivers[1].should_kick();
    rig.send_one();
    assert!(rig.drivers[1].should_kick());
}

/// One interrupt a look, and the last look finds nothing.
#[test]
fn frames_that_come_in_together_are_one_interrupt() {
    let memory = FakeMemory::new(0x10_0000);
    let mut rig = rig(&memory, Features::empty());
    rig.offer(8);
    for count in [1, 3] {
        for _ in 0..count {
            rig.arrive(Header::default(), &plain(60));
        }
        assert_eq!(rig.turn(), Turn::Done);
        assert_eq!((rig.taken().len(), rig.told()), (count, RECEIVE));
        rig.drivers[0].ask_for_next();
        assert!(rig.gathers());
    }
    assert_eq!(rig.turn(), Turn::Done);
    assert!(!rig.gathers());
}

/// An interrupt of the driver's would follow a frame it gets: it would halt and be looked at. Of others it hears nothing.
#[test]
fn frames_the_driver_does_not_get_do_not_leave_the_host_unasked() {
    let memory = FakeMemory::new(0x10_0000);
    let mut rig = rig(&memory, Features::empty());
    rig.arrive(Header::default(), &[0; 13]);
    let _ = rig.turn();
    assert!(!rig.gathers());
}

/// The driver that comes after owes nothing to the one before.
#[test]
fn a_reset_between_two_looks_leaves_a_card_that_works() {
    let memory = FakeMemory::new(0x10_0000);
    let mut rig = rig(&memory, Features::empty());
    let chosen = Features::VERSION_1 | Features::EVENT_IDX;
    rig.send_one();
    let _ = rig.turn();
    rig.net.reset();
    assert_eq!(rig.told(), 0);
    rig.net.negotiate(chosen).unwrap();
    rig.drivers = [0x1000, 0x4000].map(|at| {
        memory.write(Gpa(at), &[0; 0x2000]).unwrap();
        Driver::new(&memory, at, 256, chosen)
    });
    let [receive, transmit] = rig.drivers.each_ref().map(|driver| Some(driver.config));
    rig.net.activate(&[receive, transmit, None], &memory);
    rig.reap();
    rig.send_one();
    let _ = rig.turn();
    assert_eq!(rig.sent().len(), 2);
    let _ = rig.turn();
    assert_eq!(rig.told(), TRANSMIT);
}

/// What happens to a card, in any order.
#[derive(Clone, Copy, Debug)]
enum Event {
    Send,
    Reap,
    HostSends,
    Look,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => Just(Event::Send),
        2 => Just(Event::Reap),
        2 => Just(Event::HostSends),
        3 => Just(Event::Look),
    ];
    prop::collection::vec(event, 0..150)
}

proptest! {
    /// Turns come when the driver notifies, when the host signals, for what a turn left over, and for what gathers. So every frame goes
    /// out, and a driver that waits for it is told.
    #[test]
    fn no_frame_waits_for_ever_and_no_driver(events in events(), is_packed in any::<bool>()) {
        let memory = FakeMemory::new(0x10_0000);
        let chosen = if is_packed { Features::RING_PACKED } else { Features::empty() };
        let mut rig = rig(&memory, chosen);
        let (mut given, mut out, mut is_left) = (0, 0, false);
        let serve = |rig: &mut Rig<'_>, is_left: &mut bool| {
            *is_left = rig.turn() == Turn::More;
            rig.told() & TRANSMIT != 0
        };
        for event in events {
            match event {
                Event::Send if rig.drivers[1].room() > 0 => {
                    rig.send_one();
                    given += 1;
                    if rig.drivers[1].should_kick() {
                        let _ = serve(&mut rig, &mut is_left);
                    }
                }
                Event::Send => {}
                Event::Reap => {
                    rig.reap();
                }
                Event::HostSends => {
                    out += rig.sent().len();
                    let _ = serve(&mut rig, &mut is_left);
                }
                Event::Look if is_left || rig.gathers() => {
                    let _ = serve(&mut rig, &mut is_left);
                }
                Event::Look => {}
            }
        }
        // A driver that waits for all it has sent, and a host that is quick.
        let waited_for = rig.drivers[1].chains.len();
        let mut is_told = waited_for == rig.reap();
        for _ in 0..20 {
            let sent = rig.sent().len();
            out += sent;
            if sent > 0 || is_left || rig.gathers() {
                is_told |= serve(&mut rig, &mut is_left);
            }
        }
        prop_assert_eq!(out, given);
        prop_assert!(is_told);
        prop_assert!(!rig.gathers());
    }
}
