//! The host's own namespace: forwarding, the tunnel's fence, the exception in other tools' forward chains.
use super::Planner;
use crate::fence::host_table;
use crate::name::HOST_LINK_PREFIX;
use crate::{Object, Op, Space};

impl Planner<'_> {
    /// Before any network: the fence stands before the first tunnel does, peers before their entries.
    pub(super) fn host(&mut self) {
        let (object, space) = (Object::Host, Space::Host);
        let Some(observed) = self.observed.get(&space) else {
            return self.problem(&object, "look at it", "its namespace is not open");
        };
        if !self.desired.networks.is_empty() {
            // While a network's link is still there its traffic is judged; once it is gone nothing needs tracking.
            let wanted = self.desired.networks.values().any(|network| !network.internal);
            let linked = observed.links.keys().any(|name| name.starts_with(HOST_LINK_PREFIX));
            self.table(&object, &space, host_table(self.desired, wanted || linked));
            if linked && !wanted {
                self.remove(&object, &space, Op::SetTable { table: host_table(self.desired, false) });
            }
        }
        if !self.desired.networks.values().any(|network| !network.internal) {
            return;
        }
        self.sysctls(&object, &space, &[("net/ipv4/ip_forward", "1")]);
        if observed.forward_hook.docker_user && !observed.forward_hook.exception {
            self.add(&object, &space, Op::SetForwardException);
        }
        for chain in &observed.forward_hook.blocking {
            self.problem(
                &object,
                "forward egress of networks",
                format!(
                    "chain {chain} drops forwarded packets and offers no DOCKER-USER chain; allow forwarding from and to \
                     interfaces named {}* there",
                    HOST_LINK_PREFIX
                ),
            );
        }
    }
}
