# A machine of its own: bash machine.sh DIR PROGRAM CHECKOUT. This system's files with whatever is written kept in DIR (overlay),
# its own processes, network and control groups, and systemd as its first process. Ends with whoever started it.
set -euo pipefail
dir=$1 program=$2 checkout=$3

if [ "${4:-}" != inside ]; then
    # Its control groups are beneath one of its own, so that whoever started it can remove them.
    for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
        if [ -w "$hierarchy/cgroup.procs" ]; then
            mkdir "$hierarchy/$(basename "$dir")"
            echo $$ > "$hierarchy/$(basename "$dir")/cgroup.procs"
        fi
    done
    exec unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child bash "$0" "$dir" "$program" "$checkout" inside
fi

mount --make-rprivate /
root=$dir/root
mkdir "$dir/up" "$dir/work" "$dir/lib" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/up,workdir=$dir/work" "$root"
# An overlay may give files other numbers later, by which a server knows its store.
mount --bind "$dir/lib" "$root/var/lib"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
    mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
    mkdir "$root/sys/fs/cgroup/unified" "$root/sys/fs/cgroup/systemd"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified"
    mount -t cgroup -o none,name=systemd,xattr systemd "$root/sys/fs/cgroup/systemd"
fi
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount --rbind /dev "$root/dev"
ip link set lo up

# What a user has: a clone, and the program that was built.
mkdir "$root/clone"
cp -r "$checkout/packaging" "$checkout/samples" "$root/clone/"
cp "$program" "$root/clone/tidegate"
rm -rf "$root/etc/machine-id" "$root"/etc/systemd/system/*
systemd-id128 new > "$root/etc/machine-id"
: > "$root/etc/fstab"
printf '[Unit]\nRequires=sysinit.target dbus.service\nAfter=sysinit.target\n' > "$root/etc/systemd/system/machine.target"
# What would reach beyond it.
for unit in systemd-binfmt.service proc-sys-fs-binfmt_misc.automount systemd-sysctl.service systemd-modules-load.service \
    systemd-remount-fs.service systemd-udevd.service systemd-udev-trigger.service systemd-tmpfiles-setup-dev.service \
    systemd-random-seed.service systemd-timesyncd.service systemd-networkd.service systemd-resolved.service kmod-static-nodes.service \
    dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount \
    sys-fs-fuse-connections.mount; do
    ln -s /dev/null "$root/etc/systemd/system/$unit"
done

cd "$root"
mkdir before
pivot_root . before
umount -l /before
exec env -i container=tidegate-test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=machine.target --show-status=no
