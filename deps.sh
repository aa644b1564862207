#!/bin/sh
# Installs, through apt, what the tests and the benchmark need beside Rust, make, git and a C linker.
# Does nothing where all of it is there. The agent itself needs none of it.
set -eu
missing=""
need() { # COMMAND PACKAGE
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need ip iproute2
need ping iputils-ping
need mount mount
need nft nftables
need conntrack conntrack
need dig dnsutils
need iptables iptables
need ufw ufw
need firewalld firewalld
need dbus-daemon dbus-daemon
need dockerd docker.io
need promtool prometheus
need etcd etcd-server
need busybox busybox
need gcc gcc
need musl-gcc musl-tools
need python3 python3-minimal
need curl curl
need faketime faketime
[ -z "$missing" ] && exit 0
echo "installing:$missing"
# A policy that starts no service: the tests start their own daemons, in namespaces of their own.
policy=/usr/sbin/policy-rc.d
made=""
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 0755 "$policy"
    made=yes
fi
# It would close this machine's ports at its next start.
case "$missing" in *firewalld*) new_firewalld=yes ;; *) new_firewalld="" ;; esac
trap '[ -z "$made" ] || rm -f "$policy"' EXIT
apt-get update -q
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
if [ -n "$new_firewalld" ] && command -v systemctl >/dev/null 2>&1; then
    systemctl disable firewalld
fi
