#!/bin/busybox sh
# shellcheck shell=dash
# SPDX-License-Identifier: LGPL-2.1-only
# First process of a Linux guest that looks at its PCI devices, uses QEMU's edu among them, and says on the serial port what it
# found: Debian's kernel, nothing of Debian's above it.  edu: QEMU, docs/specs/edu.rst.
export PATH=/bin
busybox mkdir -p /proc /sys /dev
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs devtmpfs /dev
exec >/dev/ttyS0 2>&1
say() { echo "linuxguest: $*"; }
cat() { busybox cat "$@"; }

look() {
	for device in /sys/bus/pci/devices/*; do
		ids=$(cat "$device/vendor")$(cat "$device/device")
		bars=$(busybox head -6 "$device/resource" | busybox awk '$3 != "0x0000000000000000" { printf " %d=%s-%s", NR - 1, $1, $2 }')
		say "$1 ${device##*/} $ids$bars"
	done
}

look found
for device in /sys/bus/pci/devices/*; do
	[ "$(cat "$device/vendor")$(cat "$device/device")" = 0x12340x11e8 ] || continue
	echo 1 >"$device/enable"
	read -r address _ <"$device/resource"
	say "edu $(busybox devmem "$address" 32)"
	busybox devmem $((address + 4)) 32 0x12345678
	say "inverted $(busybox devmem $((address + 4)) 32)"
	busybox devmem $((address + 8)) 32 6
	while [ $(($(busybox devmem $((address + 0x20)) 32) & 1)) = 1 ]; do :; done # a thread of QEMU's computes it
	say "factorial $(busybox devmem $((address + 8)) 32)"
	echo 1 >"$device/remove"
	echo 1 >/sys/bus/pci/rescan
done
look again
say end
while :; do busybox sleep 1000; done
