//! nf_tables batches and conntrack over netlink: mechanism only, no policy.
