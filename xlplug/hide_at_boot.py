# SPDX-License-Identifier: LGPL-2.1-only
"""How to keep a display from dom0's drivers: at boot, in the words of this distribution's boot loader.

Policy only.  A display that a driver of dom0's uses is never to be unbound by hand: i915 and others hang the host then.
"""

from xlplug.model.bdf import Bdf

__all__ = ["hide_at_boot"]

_DEBIAN = (
    "hide it at boot: add xen-pciback to /etc/initramfs-tools/modules, {arg} to GRUB_CMDLINE_LINUX_DEFAULT in /etc/default/grub, "
    "run 'update-initramfs -u' and 'update-grub', and reboot"
)
_FEDORA = (
    "hide it at boot: {arg} on dom0's kernel command line (GRUB_CMDLINE_LINUX in /etc/default/grub, then "
    "'grub2-mkconfig -o /boot/grub2/grub.cfg'), force_drivers+=\" xen-pciback \" in /etc/dracut.conf.d, 'dracut -f', and reboot"
)
_OTHER = (
    "hide it at boot: {arg} on dom0's kernel command line, with xen-pciback in its initramfs, and reboot "
    "(Qubes OS: {qubes} instead)"
)
#: By ID of os-release(5).
_BY_DISTRIBUTION = {
    "debian": _DEBIAN,
    "ubuntu": _DEBIAN,
    "fedora": _FEDORA,
    "opensuse-leap": _FEDORA,
    "opensuse-tumbleweed": _FEDORA,
    "qubes": (
        "hide it at boot: {qubes} in GRUB_CMDLINE_LINUX in /etc/default/grub, run "
        "'grub2-mkconfig -o /boot/grub2/grub.cfg', and reboot"
    ),
    "xenenterprise": (
        "hide it at boot: run '/opt/xensource/libexec/xen-cmdline --set-dom0 \"{arg}\"', and reboot"
    ),
    "alpine": "hide it at boot: {arg} in default_kernel_opts in /etc/update-extlinux.conf or GRUB_CMDLINE_LINUX, and reboot",
}  # fmt: skip


def hide_at_boot(bdf: Bdf, distribution: str) -> str:
    """The advice for a display at ``bdf``; ``distribution`` is "" where it is not known."""
    qubes = str(bdf).removeprefix("0000:")
    text = _BY_DISTRIBUTION.get(distribution, _OTHER)
    return text.format(arg=f"xen-pciback.hide=({bdf})", qubes=f"rd.qubes.hide_pci={qubes}")
