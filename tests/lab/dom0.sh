#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only
# Second half of the boot, in dom0's tree: starts what xl needs, runs the job, leaves the verdict in /out.
# Each step has a timeout and its name goes to /out/step, so that a lost machine says where it was lost.
set -u
xen=$(cat /job/xen-version)
PATH=/usr/lib/xen-$xen/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH HOME=/root LANG=C.UTF-8 PYTHONPATH=/xlplug XLPLUG_IN_LAB=1

step() {
	echo "$1" >/out/step
	shift
	timeout 60 "$@" && return 0
	echo "lab: step $(cat /out/step) failed" >&2
	echo "boot $(cat /out/step)" >/out/verdict.tmp
	mv /out/verdict.tmp /out/verdict
	poweroff_now
}
poweroff_now() {
	sync
	echo o >/proc/sysrq-trigger
	sleep 30
}

overlay() {
	# Python's compiled modules go to memory: every run of xlplug would otherwise compile them again, which takes a second here.
	mkdir /run/upper /run/work
	step overlay mount -t overlay -o lowerdir=/xlplug,upperdir=/run/upper,workdir=/run/work overlay /xlplug
}
# What an init system does elsewhere.
by_hand() {
	mkdir -p /dev/pts /dev/shm /run/lock /run/xen /var/log/xen /var/lib/xen /var/run /tmp
	mount -t devpts devpts /dev/pts
	mount -t tmpfs tmpfs /run
	mkdir -p /run/lock /run/xen /run/xenstored
	step xenfs mount -t xenfs xenfs /proc/xen
	overlay
	hostname lab
	step lo ip link set lo up
	step udevd /lib/systemd/systemd-udevd --daemon --resolve-names=never
	step xenstored xenstored --pid-file /run/xenstored.pid
	step xenstored-socket sh -c 'until [ -S /run/xenstored/socket ]; do sleep 0.1; done'
	step init-dom0 "$(command -v xen-init-dom0 || echo /usr/lib/xen-"$xen"/bin/xen-init-dom0)"
	step xenconsoled xenconsoled --pid-file=/run/xenconsoled.pid
}

if [ ! -d /job/systemd ]; then
	by_hand
elif [ $$ = 1 ]; then
	# This script comes back as a unit, once Debian's own has started Xen's daemons.
	echo systemd >/out/step
	mount -t tmpfs -o mode=755 tmpfs /run
	mkdir -p /run/systemd/system/multi-user.target.wants
	cp /job/systemd/lab-job.service /run/systemd/system/
	ln -s ../lab-job.service /run/systemd/system/multi-user.target.wants/
	exec /lib/systemd/systemd
else
	overlay
fi
# passthrough: a stubdomain sees the display at the address that dom0 sees it at, which is where QEMU looks for it.
step pciback modprobe xen-pciback passthrough=1
mkdir /stubdom
step stubdom mount -t 9p -o trans=virtio,version=9p2000.L,msize=1048576,ro,cache=loose stubdom /stubdom
printf '#!/bin/sh\nexec python3 -m xlplug "$@"\n' >/usr/local/bin/xlplug
chmod +x /usr/local/bin/xlplug
if [ -e /job/interactive ]; then
	echo ready >/out/step
	printf '\nThis is dom0 of a real Xen %s.  xlplug runs from the working tree; leave with "exit".\n' "$xen"
	cd /root && setsid sh -c 'exec /bin/bash -i </dev/hvc0 >/dev/hvc0 2>&1'
	echo 0 >/out/verdict
	poweroff_now
fi
echo job >/out/step
cd /xlplug || exit 1
# How slow this machine is just now, in percent of the one that the time limits were made for.
XLPLUG_LAB_SLOWNESS=$(python3 /job/slowness.py || echo 100)
export XLPLUG_LAB_SLOWNESS
echo "$XLPLUG_LAB_SLOWNESS" >/out/slowness
timeout -k 30 $(($(cat /job/timeout) * XLPLUG_LAB_SLOWNESS / 100)) sh /job/job.sh >/out/output 2>&1
echo "$?" >/out/verdict.tmp
xl dmesg >/out/xl-dmesg 2>&1
cp -r /var/log/xen /out/log-xen 2>/dev/null
mv /out/verdict.tmp /out/verdict
poweroff_now
