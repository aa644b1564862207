//! Numbers of the kernel's interface, from include/uapi/linux/netfilter/nf_tables.h and nfnetlink.h.
//! `netlink-packet-netfilter` keeps its copies private.
pub(crate) const SUBSYSTEM_NFTABLES: u16 = 10;
pub(crate) const SUBSYSTEM_CONNTRACK: u16 = 1;
pub(crate) const BATCH_BEGIN: u16 = 16;
pub(crate) const BATCH_END: u16 = 17;
/// NFNL_BATCH_GENID, since kernel 4.10.
pub(crate) const BATCH_GENERATION: u16 = 1;

pub(crate) const REQUEST: u16 = 0x1;
pub(crate) const ACK: u16 = 0x4;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const DUMP_INTERRUPTED: u16 = 0x10;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const APPEND: u16 = 0x800;

pub(crate) const NEW_TABLE: u16 = 0;
pub(crate) const GET_TABLE: u16 = 1;
pub(crate) const DELETE_TABLE: u16 = 2;
pub(crate) const NEW_CHAIN: u16 = 3;
pub(crate) const GET_CHAIN: u16 = 4;
pub(crate) const DELETE_CHAIN: u16 = 5;
pub(crate) const NEW_RULE: u16 = 6;
pub(crate) const GET_RULE: u16 = 7;
pub(crate) const DELETE_RULE: u16 = 8;
pub(crate) const NEW_SET: u16 = 9;
pub(crate) const GET_SET: u16 = 10;
pub(crate) const DELETE_SET: u16 = 11;
pub(crate) const NEW_ELEMENT: u16 = 12;
pub(crate) const GET_ELEMENT: u16 = 13;
pub(crate) const DELETE_ELEMENT: u16 = 14;
pub(crate) const GET_GENERATION: u16 = 16;
pub(crate) const NEW_OBJECT: u16 = 18;
pub(crate) const DELETE_OBJECT: u16 = 20;

/// NF_NETDEV_INGRESS.
pub(crate) const INGRESS: u32 = 0;

pub(crate) const SET_INTERVAL: u32 = 0x4;
pub(crate) const SET_MAP: u32 = 0x8;
pub(crate) const SET_CONCATENATED: u32 = 0x80;
pub(crate) const DATA_VERDICT: u32 = 0xffff_ff00;
pub(crate) const ELEMENT_INTERVAL_END: u32 = 0x1;

/// What a message of the nf_tables subsystem is about, for error texts.
pub(crate) fn message_name(operation: u16) -> &'static str {
    match operation {
        NEW_TABLE => "add table",
        DELETE_TABLE => "delete table",
        NEW_CHAIN => "add chain",
        DELETE_CHAIN => "delete chain",
        NEW_RULE => "add rule",
        DELETE_RULE => "delete rule",
        NEW_SET => "add set",
        DELETE_SET => "delete set",
        NEW_ELEMENT => "add elements",
        DELETE_ELEMENT => "delete elements",
        NEW_OBJECT => "add object",
        DELETE_OBJECT => "delete object",
        _ => "message",
    }
}
