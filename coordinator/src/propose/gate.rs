//! What is refused before it gets into the log: commands that this coordinator can't read, or that need a feature that is not in
//! force. Others' commands in the same request are proposed all the same.

use bytes::Bytes;
use robeing_fleet::{FIRST_VERSION, Fleet, Refusal, Reply, command_version, decode_command};

/// Commands that were refused, each with where it stood in its request, in order.
#[derive(Debug, Default)]
pub struct Refused(Vec<(usize, Refusal)>);

impl Refused {
    /// The replies to all commands of a request, of which those that were not refused got these.
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

fn read(command: &[u8]) -> Result<robeing_fleet::Command, Refusal> {
    decode_command(command).map_err(|error| Refusal::Unreadable { problem: error.to_string() })
}

/// Takes out what can't be read here.
pub fn take_unreadable(commands: &mut Vec<Bytes>) -> Refused {
    sift(commands, |command| read(command).err())
}

/// Takes out what needs a feature that is not in force in this fleet.
pub fn take_not_in_force<'a, F: std::ops::Deref<Target = Fleet> + 'a>(
    commands: &mut Vec<Bytes>,
    fleet: impl FnOnce() -> F,
) -> Refused {
    if commands.iter().all(|command| command_version(command) <= FIRST_VERSION) {
        return Refused::default();
    }
    let fleet = fleet();
    let in_force = fleet.version();
    sift(commands, |command| {
        let needs_more = command_version(command) > in_force;
        needs_more.then(|| read(command).and_then(|command| fleet.check_feature(&command)).err()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use robeing_fleet::{Command, FleetConfig};

    use super::*;
    use crate::propose::encoded;

    fn newer() -> Bytes {
        let mut bytes = encoded(&Command::Tick).to_vec();
        bytes[2] += 1;
        bytes.into()
    }

    #[test]
    fn what_can_not_be_read_is_refused_alone() {
        let tick = encoded(&Command::Tick);
        let mut commands = vec![newer(), tick.clone(), Bytes::from("?"), tick.clone(), newer()];
        let refused = take_unreadable(&mut commands);
        assert_eq!(commands, [tick.clone(), tick]);
        let replies = refused.among(vec![Reply::Done, Reply::Completed]);
        let taken: Vec<bool> = replies.iter().map(|reply| !matches!(reply, Reply::Refused(_))).collect();
        assert_eq!(taken, [false, true, false, true, false]);
        assert_eq!((&replies[1], &replies[3]), (&Reply::Done, &Reply::Completed));
    }

    #[test]
    fn what_every_version_knows_needs_no_look_at_the_fleet() {
        let mut commands = vec![encoded(&Command::Tick)];
        let refused = take_not_in_force(&mut commands, || -> Box<Fleet> { panic!("it is not looked at") });
        assert_eq!((commands.len(), refused.0.len()), (1, 0));
    }

    #[test]
    fn what_is_not_in_force_is_refused() {
        let mut commands = vec![newer(), encoded(&Command::Tick)];
        let refused = take_not_in_force(&mut commands, || Box::new(Fleet::new(FleetConfig::default())));
        assert_eq!((commands.len(), refused.0.len()), (1, 1));
    }
}
