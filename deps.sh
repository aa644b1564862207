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
need modprobe kmod
# The tests' virtual machine boots Debian's kernel, which is unpacked beside the system: installing it would change
# what this machine boots.
kernel=/var/cache/svc-agent-tests/kernel
machine=""
if [ "$(dpkg --print-architecture)" = amd64 ]; then
    need qemu-system-x86_64 qemu-system-x86
    [ -e "$kernel/boot" ] || machine=yes
fi
[ -z "$missing$machine" ] && exit 0
echo "installing:$missing${machine:+ the kernel of linux-image-amd64 into $kernel}"
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
[ -z "$missing" ] || DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
if [ -n "$new_firewalld" ] && command -v systemctl >/dev/null 2>&1; then
    systemctl disable firewalld
fi
if [ -n "$machine" ]; then
    # Its name comes last: what is half unpacked must not pass for whole.
    rm -rf "$kernel.new"
    mkdir -p "$kernel.new"
    package=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: //p' | head -n 1)
    (cd "$kernel.new" && apt-get download -q "$package")
    dpkg-deb --fsys-tarfile "$kernel.new"/*.deb | tar -x -C "$kernel.new" --exclude='*/drivers/gpu' \
        --exclude='*/drivers/media' --exclude='*/kernel/sound' --exclude='./usr'
    for release in "$kernel.new"/lib/modules/*; do
        PATH="$PATH:/usr/sbin:/sbin" depmod -b "$kernel.new" "${release##*/}"
    done
    rm -f "$kernel.new"/*.deb
    rm -rf "$kernel"
    mv "$kernel.new" "$kernel"
fi
