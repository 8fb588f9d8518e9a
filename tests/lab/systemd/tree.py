# SPDX-License-Identifier: LGPL-2.1-only
"""A dom0 tree whose first process is systemd, with libvirt, Debian's own units and start scripts.

Hypervisor, kernel and initramfs are those of the release's other tree.
"""

import shutil
from functools import partial
from pathlib import Path

from tests.lab import tree
from tests.lab.tree import Tree

#: libvirt-daemon-system has libvirt's units and users, and wants one of two firewalls.
_PACKAGES = (
    "udev", "kmod", "pciutils", "procps", "iproute2", "hostname", "python3", "python3-cffi", "python3-pyudev",
    "python3-click", "python3-pytest", "systemd-sysv", "dbus", "libvirt-daemon-system", "libvirt-daemon-driver-xen",
    "iptables",
)  # fmt: skip
#: What only costs time here.  A test starts libvirtd.
_MASKED = ("e2scrub_reap.service", "getty.target", "apt-daily.timer", "apt-daily-upgrade.timer")
_DISABLED = ("libvirtd.service", "libvirt-guests.service")
#: Where libvirt has its processor models.  In each of them is a feature that the emulated processor lacks (vme or sep), so
#: that libvirt's driver does not start ("Cannot find suitable CPU model for given data"): it gets one more.
_CPU_MAP = "usr/share/libvirt/cpu_map"
_CPU = """\
<cpus>
  <model name='lab'>
    <decode host='on' guest='on'/>
    <feature name='fpu'/>
    <feature name='pse'/>
  </model>
</cpus>
"""
#: Its driver for QEMU without Xen asks every QEMU in the tree what it can do, and nobody here asks that driver.
_NO_QEMU_DRIVER = "--dpkgopt=path-exclude=/usr/lib/*/libvirt/connection-driver/libvirt_driver_qemu.so"


def get(suite: str) -> Tree:
    """The tree of a release with systemd, from the cache or built now (about a minute).

    Raises:
        BuildError: with the end of what the failing command said.
    """
    base = tree.get(suite)
    recipe = [Path(tree.__file__), tree.HERE / "init.sh", Path(__file__)]
    home = tree.cached(f"systemd-{suite}", recipe, partial(_build, base))
    return base._replace(root=home / "root")


def _build(base: Tree, part: Path) -> None:
    root = part / "root"
    release = base.release
    packages = [*_PACKAGES, f"xen-utils-{release.xen}", release.device_model]
    # Nothing starts while the tree is built; later everything may.
    quiet = 'printf "#!/bin/sh\\nexit 101\\n" >"$1/usr/sbin/policy-rc.d"; chmod +x "$1/usr/sbin/policy-rc.d"'
    systemctl = 'chroot "$1" systemctl -q'
    tree.debootstrap(
        release.suite, root, "minbase", packages, f"--essential-hook={quiet}", _NO_QEMU_DRIVER,
        '--customize-hook=rm "$1/usr/sbin/policy-rc.d"',
        f"--customize-hook={systemctl} mask {' '.join(_MASKED)}; {systemctl} disable {' '.join(_DISABLED)}",
    )  # fmt: skip
    shutil.copytree(base.root / "lib" / "modules", root / "lib" / "modules", dirs_exist_ok=True)
    for name in ("job", "out", "xlplug"):
        (root / name).mkdir(exist_ok=True)
    index = root / _CPU_MAP / "index.xml"
    index.with_name("x86_lab.xml").write_text(_CPU)
    first = "<include filename='x86_486.xml'/>"
    index.write_text(index.read_text().replace(first, f"{first}<include filename='x86_lab.xml'/>"))
