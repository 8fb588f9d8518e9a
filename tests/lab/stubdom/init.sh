#!/bin/busybox sh
# shellcheck shell=dash
# SPDX-License-Identifier: LGPL-2.1-only
# First process of the lab's Linux stubdomain: starts the QEMU that libxl describes in xenstore, and its QMP proxy.
# Whatever is printed here, QEMU's messages among it, goes to /var/log/xen/qemu-dm-NAME.log in dom0.
/bin/busybox mkdir -p /proc /sys /dev /run /tmp
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
while read -r module; do
	# Debian's kernel lets a domU's privcmd make no call on another domain, unless it is told to.
	option=
	[ "$module" = xen-privcmd.ko ] && option=unrestricted=1
	insmod "/modules/$module" $option || echo "stubdom: insmod $module failed"
done </modules/order
mkdir -p /proc/xen && mount -t xenfs xenfs /proc/xen

# QEMU's igd machine copies registers of the host bridge, and a stubdomain has none: an empty one in a folder of our own,
# with a link for each device that pcifront may bring later (function 0 of bus 0).  An overlay would not show those.
bus=/sys/bus/pci/devices
mount -t tmpfs tmpfs $bus
mkdir $bus/0000:00:00.0
head -c 256 /dev/zero >$bus/0000:00:00.0/config
for slot in 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f 10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d 1e 1f; do
	ln -s "/sys/devices/pci-0/pci0000:00/0000:00:$slot.0" $bus
done

read -r words </proc/cmdline
# An Intel display needs a VBIOS, and a PV domain cannot reach the host's at c0000: pfn c0 is the domain's own RAM.  So QEMU
# finds a folder of our own for it, with a file for "rom" and, as QEMU 10 registers a ROM twice otherwise, no ROM line in
# "resource".  "config" comes last: by it QEMU knows that the device is there.
igd_folder() {
	real=/sys/devices/pci-0/pci0000:00/0000:00:02.0
	until [ -e $real/config ]; do sleep 0.1; done
	cp /lib/vbios $bus/0000:00:02.0/rom
	zero=0x0000000000000000
	sed "7s/.*/$zero $zero $zero/" $real/resource >$bus/0000:00:02.0/resource
	for name in vendor device class irq config; do ln -s $real/$name $bus/0000:00:02.0; done
}
case " $words " in
*' xlplug.igd '*)
	rm $bus/0000:00:02.0
	mkdir $bus/0000:00:02.0
	igd_folder &
	;;
esac

# From 8.2 the QEMU in dom0 connects our console only once we have said that we are ready; the kernel, whose console works
# without saying anything in xenstore, never does.
[ "$(xenstore-read console/state 2>/dev/null)" = 1 ] && xenstore-write console/state 3

self=$(xenstore-read domid)
guest=$(xenstore-read target)
arguments=$(xenstore-read "/local/domain/$guest/vm")/image/dm-argv
set --
for number in $(xenstore-list "$arguments" | sort); do
	set -- "$@" "$(xenstore-read "$arguments/$number")"
done
echo "stubdom: domain $self serves domain $guest"
# What the domain's config has in stubdomain_cmdline; for QEMU alone, so that nothing else inherits it.
library=
trace=
for word in $words; do
	case $word in
	xlplug.preload=*) library=/lib/libxlplug-preload.so ;;
	esac
	[ "$word" = xlplug.preload=trace ] && trace=1
done
# QEMU 10 reserves 384 MiB for its table of grant mappings and touches next to nothing of it.
echo 1 >/proc/sys/vm/overcommit_memory
LD_PRELOAD=$library XLPLUG_PRELOAD_TRACE=$trace device-model "$@" -chardev socket,id=qmp,path=/run/qmp,server=on,wait=off -mon chardev=qmp,mode=control &
qemu=$!
until [ -S /run/qmp ] || ! kill -0 "$qemu"; do sleep 0.1; done
vchan-socket-proxy --mode=server 0 "/local/domain/$self/device-model/$guest/qmp-vchan" /run/qmp &
wait "$qemu"
echo "stubdom: QEMU ended with status $?"
poweroff -f
