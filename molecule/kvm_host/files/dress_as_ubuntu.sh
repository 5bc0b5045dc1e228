#!/bin/sh
# Gives a Debian what role kvm_host meets on an Ubuntu 24.04 that has just booted for the first time; the packages stay Debian's.
set -eu
rm -f /etc/os-release
cat >/etc/os-release
# Its QEMU came from a Debian suite of which an Ubuntu knows nothing.
rm -f /etc/apt/sources.list.d/onecopy.list /etc/apt/preferences.d/onecopy

# A first boot with warnings: the answer comes late, and is 2.
cat >/usr/bin/cloud-init <<'END'
#!/bin/sh
[ "$*" = "status --wait" ] || exit 9
sleep 2
touch /run/waited-for-cloud-init
echo "status: done"
exit 2
END
chmod 0755 /usr/bin/cloud-init

unit() { printf '[Unit]\nDescription=%s\n%s\n' "$1" "$2" >"/etc/systemd/system/$1"; }
unit snapd.service '[Service]
ExecStart=/bin/sleep infinity'
unit plocate-updatedb.service '[Service]
Type=oneshot
ExecStart=/bin/true'
unit plocate-updatedb.timer '[Timer]
OnUnitActiveSec=1d
OnBootSec=1d'
systemctl daemon-reload
systemctl start snapd.service plocate-updatedb.timer

# unattended-upgrades at work: something has to be installed, and dpkg is taken for a while.
dpkg --force-depends --remove cpio
systemd-run --quiet --collect python3 -c '
import fcntl, pathlib, time
lock = open("/var/lib/dpkg/lock-frontend", "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
pathlib.Path("/run/dpkg-was-taken").touch()
time.sleep(8)'
timeout 10 sh -c 'until [ -e /run/dpkg-was-taken ]; do sleep 0.1; done'
touch /etc/dressed-as-ubuntu
