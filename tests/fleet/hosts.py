# SPDX-License-Identifier: LGPL-2.1-only
"""Hosts to reach over real SSH: this machine's own Debian, changed in memory, in namespaces with an address of their own.

Each host has its own network, processes, mounts and name; what is written over the root goes to a tmpfs.  They live below one
process, and end with it.  Needs root.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

NET = "10.231.77"  # inside a network namespace of ours; nothing of it reaches this machine's own network

#: First process of a host: a root of its own, then sshd.
_INIT = r"""
set -eu
name=$1 number=$2 home=$3 key=$4
ip link set lo up
ip addr add "$NET.$number/24" dev eth0
ip link set eth0 up
hostname "$name"
mount -t tmpfs tmpfs "$home"
mkdir "$home/upper" "$home/work" "$home/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$home/upper,workdir=$home/work" "$home/root"
cd "$home/root"
mount --rbind /dev dev
mount -t proc proc proc
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mkdir -p run/sshd root/.ssh etc/xen usr/local/sbin
rm -f usr/local/sbin/xl
cp "$key.pub" root/.ssh/authorized_keys
chmod 700 root root/.ssh
chmod 600 root/.ssh/authorized_keys
cp "$key" etc/ssh/xlplug_host_key
chmod 600 etc/ssh/xlplug_host_key
# Services must not start here, and dpkg must not wait for this machine's own.
printf '#!/bin/sh\nexit 101\n' >usr/sbin/policy-rc.d
chmod 755 usr/sbin/policy-rc.d
printf 'force-unsafe-io\npath-exclude=/usr/share/man/*\n' >etc/dpkg/dpkg.cfg.d/xlplug-test
exec chroot . /usr/sbin/sshd -D -e -h /etc/ssh/xlplug_host_key -o UsePAM=no -o StrictModes=no -o PermitRootLogin=yes -o PidFile=none
"""


class Host(NamedTuple):
    """A running host."""

    name: str
    address: str
    process: "subprocess.Popen[bytes]"


class Fleet:
    """Some hosts, and a namespace from which they can be reached: run commands there with ``inside``."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.key = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        # Holds the namespace of the network between the hosts.
        hold = (
            "ip link set lo up; ip link add br0 type bridge; ip addr add $NET.1/24 dev br0; ip link set br0 up; echo; "
        )
        hold += "exec sleep inf"
        self.middle = self._start(["unshare", "-n", "sh", "-ec", hold], stdout=subprocess.PIPE)
        assert self.middle.stdout is not None
        self.middle.stdout.readline()
        self.hosts: list[Host] = []
        try:
            for n in range(count):
                self.hosts.append(self._host(f"host{n}", n + 10))
            for host in self.hosts:
                self._wait_for(host)
        except BaseException:
            self.close()
            raise

    def _start(self, argv: list[str], **options: object) -> "subprocess.Popen[bytes]":
        env = {**os.environ, "NET": NET}
        # With us, however we end: everything of a host is below its first process.
        return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *argv], env=env, **options)  # type: ignore[call-overload,no-any-return]

    def _host(self, name: str, number: int) -> Host:
        home = self.folder / name
        home.mkdir()
        log = os.open(self.folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        ready = 'read -r _ && exec sh -c "$0" "$@"'
        process = self._start(
            [
                "unshare", "-n", "-m", "-u", "-p", "--fork", "--kill-child", "--mount-proc",
                "sh", "-ec", ready, _INIT, name, name, str(number), str(home), str(self.key),
            ],
            stdin=subprocess.PIPE, stdout=log, stderr=log,
        )  # fmt: skip
        os.close(log)
        child = _namespaced(process.pid)
        run = self._middle(
            ["ip", "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", str(child)]
        )
        assert run.returncode == 0, run.stderr
        assert self._middle(["ip", "link", "set", f"v{number}", "master", "br0", "up"]).returncode == 0
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
        return Host(name, f"{NET}.{number}", process)

    def _middle(self, argv: list[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["nsenter", "-n", "-t", str(self.middle.pid), *argv], capture_output=True, text=True)

    def inside(self, *argv: str, cwd: Path | None = None, **env: str) -> "subprocess.CompletedProcess[str]":
        """Run a command from where the hosts can be reached."""
        return subprocess.run(
            ["nsenter", "-n", "-t", str(self.middle.pid), *argv],
            capture_output=True, text=True, cwd=cwd, timeout=300, env={**os.environ, **env},
        )  # fmt: skip

    def ssh(self, host: Host, command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command on a host."""
        return self.inside("ssh", *self.ssh_options(), f"root@{host.address}", command)

    def ssh_options(self) -> list[str]:
        words = [
            "StrictHostKeyChecking=no",
            f"UserKnownHostsFile={self.folder}/known",
            "LogLevel=ERROR",
            "ConnectTimeout=20",
        ]
        return ["-i", str(self.key), *(word for each in words for word in ("-o", each))]

    def _wait_for(self, host: Host) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if host.process.poll() is not None:
                break
            if self.ssh(host, "true").returncode == 0:
                return
            time.sleep(0.3)
        raise RuntimeError(f"{host.name} does not answer: {(self.folder / f'{host.name}.log').read_text()}")

    def close(self) -> None:
        for process in (*(host.process for host in self.hosts), self.middle):
            process.kill()
            process.wait()
        if self.middle.stdout is not None:
            self.middle.stdout.close()


def _namespaced(pid: int) -> int:
    """The process in the new namespaces: unshare's child."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children and os.readlink(f"/proc/{children[0]}/ns/net") != os.readlink("/proc/self/ns/net"):
            return int(children[0])
        time.sleep(0.05)
    raise RuntimeError("unshare has no child")


def missing() -> str:
    """What keeps hosts from running here; empty when nothing does."""
    if os.geteuid() != 0:
        return "not root"
    absent = [
        t for t in ("sshd", "ssh", "ip", "unshare", "nsenter", "setpriv", "ansible-playbook") if not shutil.which(t)
    ]
    return f"not installed: {', '.join(absent)}" if absent else ""
