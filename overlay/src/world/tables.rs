//! nf_tables of one namespace.
use netfilter::Family;

use super::{Inside, Outcome};
use crate::Op;

impl Inside<'_> {
    pub(super) fn apply_to_tables(&mut self, op: &Op) -> Outcome {
        let seen = &mut *self.seen;
        match op {
            Op::SetTable { table } => {
                self.forget_ways(table.family);
                self.seen.tables.insert(table.family, table.state());
            }
            Op::SetChain { family, name, chain } => {
                let table = seen.tables.get_mut(family).ok_or(libc::ENOENT)?;
                table.chains.insert(name.clone(), chain.state());
            }
            // It stays when its device goes, and waits for the next one of that name (kernel 6.16 and later).
            Op::DeleteChain { family, name } => {
                let table = seen.tables.get_mut(family).ok_or(libc::ENOENT)?;
                table.chains.remove(name).ok_or(libc::ENOENT)?;
            }
            Op::ChangeElements { family, set, add, delete } => {
                let table = seen.tables.get_mut(family).ok_or(libc::ENOENT)?;
                let elements = table.sets.get_mut(set).ok_or(libc::ENOENT)?;
                if !delete.is_subset(elements) {
                    return Err(libc::ENOENT);
                }
                elements.retain(|element| !delete.contains(element));
                elements.extend(add.iter().cloned());
            }
            Op::SetWay { mac, port } => {
                self.link(port)?;
                self.seen.tables.get(&Family::Netdev).ok_or(libc::ENOENT)?;
                self.seen.ways.insert(*mac, port.clone());
            }
            Op::DeleteWay { mac } => {
                seen.ways.remove(mac).ok_or(libc::ENOENT)?;
            }
            Op::DeleteTable { family } => {
                seen.tables.remove(family).ok_or(libc::ENOENT)?;
                self.forget_ways(*family);
            }
            Op::SetForwardException { family } => {
                seen.forward_hook.docker_user.contains(family).then_some(()).ok_or(libc::ENOENT)?;
                seen.forward_hook.exceptions.insert(*family);
            }
            Op::DeleteForwardException { family } => {
                seen.forward_hook.exceptions.remove(family);
            }
            _ => return Err(libc::EOPNOTSUPP),
        }
        Ok(())
    }

    /// They are elements of the table.
    fn forget_ways(&mut self, family: Family) {
        if family == Family::Netdev {
            self.seen.ways.clear();
        }
    }
}
