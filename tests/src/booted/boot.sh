# Boots Debian in the calling mount, process, host name, IPC and cgroup namespaces; never returns.
# Arguments: a directory to write to, the layers below (overlayfs, lowerdir), the host's name.
set -e
directory=$1 layers=$2 name=$3
mkdir -p "$directory/upper" "$directory/work" "$directory/root" "$directory/docker" "$directory/containers"
mount --make-rprivate /
root=$directory/root
mount -n -t overlay overlay -o "lowerdir=$layers,upperdir=$directory/upper,workdir=$directory/work" "$root"
hostname "$name"
echo "$name" >"$root/etc/hostname"
printf '127.0.0.1 localhost\n192.168.77.1 h1\n192.168.77.2 h2\n' >"$root/etc/hosts"
: >"$root/etc/resolv.conf"
# Engines' own overlays cannot lie upon one.
for engine in docker containers; do
    mkdir -p "$root/var/lib/$engine"
    mount -n --bind "$directory/$engine" "$root/var/lib/$engine"
done
mount -n -t proc proc "$root/proc"
mount -n -t sysfs sysfs "$root/sys"
mount -n -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for at in run tmp dev; do mount -n -t tmpfs tmpfs "$root/$at"; done
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount -n --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -n -t devpts devpts "$root/dev/pts" -o newinstance,ptmxmode=0666
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
cd "$root"
mkdir -p .before
pivot_root . .before
umount -n -l .before
rmdir .before
# As systemd itself does where it is not in a container.
mount -n --make-rshared /
exec env -i container=svc-agent-tests PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --log-target=journal --show-status=0 --unit=multi-user.target
