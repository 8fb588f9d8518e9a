#!/bin/busybox sh
# shellcheck shell=dash
# SPDX-License-Identifier: LGPL-2.1-only
# First process of the lab's dom0: mounts the tree and the shares, then hands over to the job's dom0.sh.
bb=/bin/busybox
$bb mkdir -p /proc /sys /dev /lower /rw /mnt
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs devtmpfs /dev
while read -r module; do
	$bb insmod "/modules/$module" || echo "lab: insmod $module failed"
done </modules/order
opts=trans=virtio,version=9p2000.L,msize=1048576
$bb mount -t 9p -o "$opts,ro,cache=loose" root /lower || exec $bb poweroff -f
$bb mount -t tmpfs tmpfs /rw
$bb mkdir -p /rw/upper /rw/work
$bb mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work overlay /mnt || exec $bb poweroff -f
$bb mount -t 9p -o "$opts,ro,cache=loose" job /mnt/job
$bb mount -t 9p -o "$opts,ro,cache=loose" tree /mnt/xlplug
$bb mount -t 9p -o "$opts" out /mnt/out
for fs in proc sys dev; do $bb mount --move "/$fs" "/mnt/$fs"; done
exec $bb switch_root /mnt /bin/sh /job/dom0.sh
