"""The first programs of a guest: short shell scripts for busybox, and the list of kernel modules they may load."""

from __future__ import annotations

RUNNER_PORT = "org.onecopy.runner"
SHELL_PORT = "org.onecopy.shell"

# Always loaded, in this order; then those that the kernel command line names (onecopy.modules=a,b).
BOOT_MODULES = ("virtio_blk",)
PMEM_MODULES = ("libnvdimm", "nd_btt", "nd_pmem", "nd_virtio", "virtio_pmem")
RECLAIM_MODULES = {"balloon": ("virtio_balloon",), "reporting": ("virtio_balloon",), "virtio_mem": ("virtio_mem",)}
EROFS_MODULES = ("libcrc32c", "erofs")
OPTIONAL_MODULES = (*PMEM_MODULES, "virtio_balloon", "virtio_mem", *EROFS_MODULES)
ALL_MODULES = BOOT_MODULES + OPTIONAL_MODULES

# Directories that the root image (read-only) must have for the mounts to come.
MOUNT_POINTS = ("data", "scratch", "share", "run", "tmp", "proc", "sys", "dev")

# In the initramfs: the kernel command line says what holds the root, and below which directory of it the root is (onecopy.root, for a root that is
# data under test). The runner and busybox move on a tmpfs into the new root.
INITRAMFS = """#!/bin/busybox sh
set -e
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o mode=755 run /run
for word in $(cat /proc/cmdline); do
    case $word in
        onecopy.modules=*) modules=$(echo "${word#*=}" | tr , ' ');;
        root=*) root=${word#*=};;
        rootfstype=*) type=${word#*=};;
        rootflags=*) flags=${word#*=};;
        onecopy.root=*) directory=${word#*=};;
    esac
done
for module in BOOT_MODULES $modules; do [ ! -e "/modules/$module.ko" ] || insmod "/modules/$module.ko"; done
case $root in /dev/*)
    tries=100
    until [ -b "$root" ] || [ $tries -eq 0 ]; do sleep 0.1; tries=$((tries - 1)); done;;
esac
mkdir /base
mount -t "$type" -o "$flags" "$root" /base
mount -o bind "/base/$directory" /root
mount -o remount,bind,ro,noatime /root
mv /onecopy /run/onecopy
cp /bin/busybox /run/onecopy/busybox
for point in dev proc sys run; do mount --move "/$point" "/root/$point"; done
exec switch_root /root /run/onecopy/busybox sh /run/onecopy/init
""".replace("BOOT_MODULES", " ".join(BOOT_MODULES))

# In the root: the runner at once, the shell when the runner is up. When the runner ends, so does the guest: nobody could reach it any more.
INIT = f"""busybox=/run/onecopy/busybox
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
$busybox mount -t tmpfs -o mode=1777 tmp /tmp
ulimit -n 1048576
PYTHONHASHSEED=0 python3 -SEs -X frozen_modules=on /run/onecopy/runner/main.py port {RUNNER_PORT} &
runner=$!
(
    $busybox sleep 3
    while [ -c /dev/hvc0 ]; do
        HOME=/root TERM=linux $busybox setsid sh -c 'cd /; exec bash -i </dev/hvc0 >/dev/hvc0 2>&1'
        $busybox sleep 1
    done
) &
wait $runner
echo "onecopy: the runner ended with code $?" >/dev/console
$busybox poweroff -f
"""

# In the initramfs and in the hfs chroot alike.
RUNNER_MAIN = "from onecopy.runner import main\n\nmain()\n"
