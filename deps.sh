#!/bin/sh
# Installs what the tests and the benchmark need beside Rust, make, git and a C linker: through apt, and a clean Debian to
# install the package in. `deps.sh package` installs what makes the package instead: through apt, rustup and cargo.
# Does nothing where all of it is there. The agent itself needs none of it.
set -eu
missing=""
need() { # COMMAND PACKAGE
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
if [ "${1:-}" = package ]; then
    need musl-gcc musl-tools
    need gzip gzip
    if [ -n "$missing" ]; then
        apt-get update -q
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
    fi
    target=$(uname -m)-unknown-linux-musl
    if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$target" ]; then
        if ! command -v rustup >/dev/null; then
            echo "Rust has no standard library for $target here, and there is no rustup to install it" >&2
            exit 1
        fi
        rustup target add "$target"
    fi
    cargo deb --version >/dev/null 2>&1 || cargo install --locked cargo-deb --version 3.8.0
    exit 0
fi
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
need debootstrap debootstrap
# The tests' virtual machine boots Debian's kernel, which is unpacked beside the system: installing it would change
# what this machine boots.
kernel=/var/cache/svc-agent-tests/kernel
machine=""
if [ "$(dpkg --print-architecture)" = amd64 ]; then
    need qemu-system-x86_64 qemu-system-x86
    [ -e "$kernel/boot" ] || machine=yes
fi
# A clean Debian, and what it becomes by engines and clients, as a layer on top (overlayfs). Their names come last, as above;
# a list of packages that changes gets another name (tests/src/booted/mod.rs has them, too).
root=/var/cache/svc-agent-tests/root
docker=/var/cache/svc-agent-tests/engines
debian=""
[ -d "$root/etc" ] && [ -d "$docker/etc" ] || debian=yes
[ -z "$missing$machine$debian" ] && exit 0
echo "installing:$missing${machine:+ the kernel of linux-image-amd64 into $kernel}${debian:+ a clean Debian into $root}"
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
if [ -n "$debian" ]; then
    rm -rf "$docker" "$docker.new" "$docker.work" "$docker.root"
    if [ ! -d "$root/etc" ]; then
        # What it mounts ends with it, however it ends.
        rm -rf --one-file-system "$root.new"
        unshare -m debootstrap --variant=minbase --include=systemd,dbus bookworm "$root.new"
        mv "$root.new" "$root"
    fi
    mkdir "$docker.new" "$docker.work" "$docker.root"
    # In namespaces of its own: its mounts and processes end with it.
    unshare -m -p -f --kill-child sh -eu -s "$root" "$docker" <<'END'
        mount --make-rprivate /
        mount -t overlay overlay -o "lowerdir=$1,upperdir=$2.new,workdir=$2.work" "$2.root"
        cd "$2.root"
        mount -t proc proc proc
        mount --rbind /dev dev
        cp /etc/resolv.conf /etc/hosts etc
        cp -r /etc/apt/apt.conf.d etc/apt
        printf '#!/bin/sh\nexit 101\n' >usr/sbin/policy-rc.d
        chmod 0755 usr/sbin/policy-rc.d
        chroot . sh -eu -s <<'INSIDE'
            apt-get update -q
            DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends docker.io docker-compose podman crun iptables \
                nftables iproute2 iputils-ping curl python3-minimal busybox openssh-server openssh-client
            apt-get clean
            rm -rf /var/lib/apt/lists/* /usr/sbin/policy-rc.d
            # Its hosts are one operator's.
            mkdir -p -m 0700 /root/.ssh
            ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
            cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys
            echo 'StrictHostKeyChecking no' >/root/.ssh/config
INSIDE
END
    rm -rf "$docker.work" "$docker.root"
    mv "$docker.new" "$docker"
fi
