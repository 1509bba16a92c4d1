//! Refuses commands before they get into the log: those that this coordinator can't decode, or that need a feature that
//! is not in force. The other commands of the same request are still proposed.
//!
//! Only a ready leader refuses, just before it writes: a follower may not have applied the newest `RaiseVersion` yet.

use bytes::Bytes;
use robeing_fleet::{Command, ControlCommand, FIRST_VERSION, Fleet, Refusal, Reply, command_version, decode_command};

/// The refused commands of a request, each with its position in the request, in order.
#[derive(Debug, Default)]
pub struct Refused(Vec<(usize, Refusal)>);

impl Refused {
    /// Whether no command was refused.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the refusals from a later pass over the commands that were left. Their positions are among those commands.
    pub fn add(&mut self, later: Refused) {
        let earlier: Vec<usize> = self.0.iter().map(|(position, _)| *position).collect();
        // The position among all commands of the request.
        let position = |place| earlier.iter().fold(place, |at, earlier| if *earlier <= at { at + 1 } else { at });
        self.0.extend(later.0.into_iter().map(|(place, refusal)| (position(place), refusal)));
        self.0.sort_by_key(|(position, _)| *position);
    }

    /// Returns the replies to all commands of the request: `replies`, which belong to the commands that were not
    /// refused, with the refusals inserted at their positions.
    pub fn among(self, replies: Vec<Reply>) -> Vec<Reply> {
        let mut all = replies;
        for (position, refusal) in self.0 {
            all.insert(position.min(all.len()), Reply::Refused(refusal));
        }
        all
    }
}

fn sift(commands: &mut Vec<Bytes>, refuse: impl Fn(&[u8]) -> Option<Refusal>) -> Refused {
    let (mut position, mut refused) = (0, Vec::new());
    commands.retain(|command| {
        let refusal = refuse(command);
        let is_taken = refusal.is_none();
        refused.extend(refusal.map(|refusal| (position, refusal)));
        position += 1;
        is_taken
    });
    Refused(refused)
}

fn read(command: &[u8]) -> Result<Command, Refusal> {
    decode_command(command).map_err(|error| Refusal::Unreadable { problem: error.to_string() })
}

/// Removes commands that another coordinator forwarded and that can't be decoded here. Also removes `RaiseVersion`,
/// which only the leader itself may propose.
pub fn take_unreadable(commands: &mut Vec<Bytes>) -> Refused {
    sift(commands, |command| match read(command) {
        Ok(Command::Control(ControlCommand::RaiseVersion(_))) => {
            Some(Refusal::Unreadable { problem: "only the leader may raise the fleet version".into() })
        }
        Ok(_) => None,
        Err(refusal) => Some(refusal),
    })
}

/// Removes commands that need a feature that is not in force in this fleet. Only those are decoded: the version in the
/// header is the one that a command needs, because each was encoded here or has passed [`take_unreadable`].
pub fn take_not_in_force<'a, F: std::ops::Deref<Target = Fleet> + 'a>(
    commands: &mut Vec<Bytes>,
    fleet: impl FnOnce() -> F,
) -> Refused {
    if commands.iter().all(|command| command_version(command) <= FIRST_VERSION) {
        return Refused::default();
    }
    let fleet = fleet();
    sift(commands, |command| {
        if command_version(command) <= fleet.version() {
            return None;
        }
        match read(command) {
            Ok(command) => fleet.check_feature(&command).err(),
            Err(refusal) => Some(refusal),
        }
    })
}

/// Returns the commands of a request that need a feature, each with its position.
pub fn with_features(commands: &[Bytes]) -> Vec<(usize, Bytes)> {
    let needs = |(_, command): &(usize, &Bytes)| command_version(command) > FIRST_VERSION;
    commands.iter().enumerate().filter(needs).map(|(position, command)| (position, command.clone())).collect()
}

/// Replaces the replies to commands that an older leader could not decode by refusals that name the feature they need.
pub fn name_features(of: &[(usize, Bytes)], fleet: &Fleet, replies: &mut [Reply]) {
    for (position, command) in of {
        if let Some(reply @ Reply::Refused(Refusal::Unreadable { .. })) = replies.get_mut(*position)
            && let Ok(command) = read(command)
            && let Err(refusal) = fleet.check_feature(&command)
        {
            *reply = Reply::Refused(refusal);
        }
    }
}

#[cfg(test)]
mod tests {
    use robeing_fleet::FleetConfig;

    use super::*;
    use crate::propose::encoded;

    /// A command of a version that no binary knows.
    fn newer() -> Bytes {
        let mut bytes = encoded(&Command::Control(ControlCommand::Tick)).to_vec();
        bytes[2] = 200;
        bytes.into()
    }

    #[test]
    fn what_can_not_be_read_is_refused_alone() {
        let tick = encoded(&Command::Control(ControlCommand::Tick));
        let raise = encoded(&Command::Control(ControlCommand::RaiseVersion(FIRST_VERSION)));
        let mut commands = vec![newer(), tick.clone(), Bytes::from("?"), tick.clone(), raise];
        let refused = take_unreadable(&mut commands);
        assert_eq!(commands, [tick.clone(), tick]);
        let replies = refused.among(vec![Reply::Done, Reply::Completed]);
        let taken: Vec<bool> = replies.iter().map(|reply| !matches!(reply, Reply::Refused(_))).collect();
        assert_eq!(taken, [false, true, false, true, false]);
        assert_eq!((&replies[1], &replies[3]), (&Reply::Done, &Reply::Completed));
    }

    #[test]
    fn what_is_refused_later_keeps_its_place_among_all() {
        let refusal = || Refusal::Unreadable { problem: String::new() };
        let of = |positions: &[usize]| Refused(positions.iter().map(|at| (*at, refusal())).collect());
        for (earlier, later, together) in [
            (&[][..], &[0, 1][..], vec![0, 1]),
            (&[0, 3], &[0, 1], vec![0, 1, 2, 3]),
            (&[1], &[0, 1, 2], vec![0, 1, 2, 3]),
            (&[0, 1], &[1], vec![0, 1, 3]),
            (&[2], &[], vec![2]),
        ] {
            let mut refused = of(earlier);
            refused.add(of(later));
            let positions: Vec<usize> = refused.0.iter().map(|(at, _)| *at).collect();
            assert_eq!(positions, together, "{earlier:?} and {later:?}");
        }
    }

    #[test]
    fn what_every_version_knows_needs_no_look_at_the_fleet() {
        let mut commands = vec![encoded(&Command::Control(ControlCommand::Tick))];
        let refused = take_not_in_force(&mut commands, || -> Box<Fleet> { panic!("it is not looked at") });
        assert!(commands.len() == 1 && refused.is_empty());
        assert!(with_features(&commands).is_empty());
    }

    #[test]
    fn what_is_not_in_force_is_refused() {
        let mut commands = vec![newer(), encoded(&Command::Control(ControlCommand::Tick))];
        assert_eq!(with_features(&commands), [(0, newer())]);
        let refused = take_not_in_force(&mut commands, || Box::new(Fleet::new(FleetConfig::default())));
        assert_eq!((commands.len(), refused.0.len()), (1, 1));
    }
}
