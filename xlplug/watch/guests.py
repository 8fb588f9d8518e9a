# SPDX-License-Identifier: LGPL-2.1-only
"""What ``xlplug watch`` does about each domain.  The daemon calls `look` after any event, and asks `wait` how long to wait.

Decisions depend on what is there now, not on what an event said, so that a lost event costs only time.  The journal holds
what has been granted, so that nothing is done twice, by us or by the device model wrapper.
"""

import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import NamedTuple

from xlplug.config.delegated import Spec
from xlplug.config.domain import DomainConfig
from xlplug.dom0 import nodes
from xlplug.dom0.domains import device_model_arguments, stubdom_of
from xlplug.dom0.find_config import Found
from xlplug.execute import grants
from xlplug.execute.journal import Journal
from xlplug.hook.device_model import restores
from xlplug.model.addr import Domid
from xlplug.model.bdf import Bdf
from xlplug.model.errors import Refused, XlplugError
from xlplug.model.host import HostSnapshot
from xlplug.model.hypervisor import DomainInfo, Hypervisor, Store
from xlplug.model.occasion import RESTORING, RUNNING, STARTING, Occasion, Who
from xlplug.model.rangeset import RangeSet
from xlplug.model.steps import IOPORT
from xlplug.plan import Plan, build
from xlplug.vga import VGA_PORT_SET
from xlplug.watch.guard import GuardLostError, Pauser

__all__ = ["ERROR", "INFO", "WARNING", "Watcher", "World"]

ERROR, WARNING, INFO = 3, 4, 6  #: priorities, as syslog(3) numbers them

#: The stages of a guest: its configuration is not found yet; libxl builds it; grants were made, or tried; libxl has its record.
_NEW, _BUILDING, _BUILT, _LIVING = "new", "building", "built", "living"
_IGNORED = "ignored"

_LATE_STARTING = STARTING.without_ram(RUNNING)
_POLL = 1.0  # seconds: there is no event to wait for when libxl writes its record
_LATE = "{} had the display before the grants were made; its VGA ranges are mapped now; if it stays dark: xl reboot {}"
_PATIENCE = 60.0  # seconds: a domain without a configuration after that is left to its own toolstack


class World(NamedTuple):
    """Everything outside that the watcher uses."""

    xen: Hypervisor
    store: Store
    pauser: Pauser
    watch: Callable[[str], None]
    unwatch: Callable[[str], None]
    being_created: Callable[[DomainInfo, str], Found | None]
    record: Callable[[DomainInfo], DomainConfig | None]  #: libxl's own configuration, None while there is none
    snapshot: Callable[[DomainConfig], HostSnapshot]
    lock: Callable[[], AbstractContextManager[None]]
    log: Callable[[int, str], None]
    delegate: Callable[[int, tuple[Spec, ...]], None]  #: start a guest's delegate, and wait until it is ready


class _Guest(NamedTuple):
    """A domain, and the stage that it has reached."""

    domid: Domid
    uuid: str
    name: str
    since: float
    stage: str = _NEW
    config: DomainConfig = DomainConfig()
    leave_to_wrapper: bool = False
    served: frozenset[str] | None = None  #: slots present when the device model started; None: unknown, so all of them
    failed: bool = False
    seen: DomainConfig | None = None  #: libxl's record, as it was when the grants were made for it, or refused


class Watcher:
    """The domains of this host."""

    def __init__(self, world: World, *, map_legacy: bool = False) -> None:
        self._world = world
        self._map_legacy = map_legacy
        self._guests: dict[Domid, _Guest] = {}
        self._said: set[tuple[Domid, str]] = set()

    @property
    def present(self) -> Collection[Domid]:
        """The domains that there were at the last look, dom0 not among them."""
        return self._guests.keys()

    def wait(self) -> float | None:
        """Seconds until `look` is needed without an event; None for never."""
        return _POLL if any(g.stage in (_NEW, _BUILDING, _BUILT) for g in self._guests.values()) else None

    def look(self, changed: Collection[int] = (), *, host_changed: bool = False) -> None:
        """Find out what there is to do, and do it.

        ``changed`` are the domains whose PCI devices have changed.  ``host_changed`` means that a function of the host has
        changed, so that what was refused before may be possible now.

        Raises:
            StoreError: xenstored is gone.
            GuardLostError: the guard is gone; see guard.py.
        """
        present = {
            Domid(int(name)) for name in self._world.store.list(nodes.DOMAINS) if name.isdecimal() and name != "0"
        }
        for domid in self._guests.keys() - present:
            self._forget(domid)
        for domid in sorted(present):
            guest = self._guest(domid)
            if guest is not None:
                self._guests[domid] = guest
                self._guests[domid] = self._advance(guest, changed=domid in changed, host_changed=host_changed)

    def _guest(self, domid: Domid) -> _Guest | None:
        """The domain that has this number now; None while libxl has not written its name and uuid.

        Whether it is still the domain that we know, Xen answers much faster than xenstored: with hundreds of domains, an event
        must not cost a thousand requests to xenstored.
        """
        guest = self._guests.get(domid)
        if guest is not None:
            info = self._world.xen.domain_info(domid)
            if info is not None and info.uuid == guest.uuid:
                return guest
        store = self._world.store
        uuid = (store.read(nodes.vm(domid)) or "").rpartition("/")[2]
        name = store.read(nodes.name(domid))
        if not uuid or name is None:
            return None
        if guest is not None and guest.uuid == uuid:
            return guest
        self._forget(domid)
        return _Guest(domid, uuid, name, time.monotonic())

    def _forget(self, domid: Domid) -> None:
        guest = self._guests.pop(domid, None)
        if guest is not None and guest.stage == _BUILDING:
            self._world.unwatch(nodes.device_model_domid(domid))
        self._said = {said for said in self._said if said[0] != domid}

    def _advance(self, guest: _Guest, *, changed: bool, host_changed: bool) -> _Guest:
        """Take a guest as far as it can go now."""
        try:
            if guest.stage == _NEW:
                guest = self._identify(guest)
            if guest.stage == _BUILDING:
                guest = self._create(guest)
            if guest.stage == _BUILT and self._record(guest) is not None:
                # Before there was a record, a device may have been plugged in, or kept by a guest that reboots.
                guest, changed = guest._replace(stage=_LIVING), True
            again = guest.failed and host_changed
            config = self._record(guest) if guest.stage == _LIVING and (changed or again) else None
            # A guest can have pciback change its state again and again, which must not keep others waiting for the lock.
            if config is not None and (config != guest.seen or again):
                guest = guest._replace(seen=config)
                guest = self._replug(guest, config)
        except GuardLostError:
            raise
        except XlplugError as error:
            if not self._going(guest.domid):
                self._say(ERROR, guest, str(error))
            return guest._replace(failed=True, seen=guest.seen if isinstance(error, Refused) else None)
        return guest

    def _going(self, domid: Domid) -> bool:
        """Whether the domain is being destroyed, or gone.

        libxl removes its own folder first, its devices' after that, and then has Xen destroy the domain (tools/libs/light/
        libxl_domain.c, devices_destroy_cb): a journal written in between would stay.
        """
        info = self._world.xen.domain_info(domid)
        return info is None or info.dying or not self._world.store.list(nodes.libxl(domid))

    def _record(self, guest: _Guest) -> DomainConfig | None:
        info = self._world.xen.domain_info(guest.domid)
        return None if info is None or info.dying else self._world.record(info)

    def _identify(self, guest: _Guest) -> _Guest:
        """Find out what a new domain is, and its configuration."""
        world = self._world
        info = world.xen.domain_info(guest.domid)
        if info is None or info.dying:
            return guest
        if not info.hvm or world.store.read(nodes.target(guest.domid)) is not None:
            return guest._replace(stage=_IGNORED)
        if world.record(info) is not None:
            return guest._replace(stage=_BUILT)
        found = world.being_created(info, guest.name)
        if found is None:
            if time.monotonic() < guest.since + _PATIENCE:
                return guest
            text = f"no configuration found; if it needs grants: xlplug grant {guest.domid} --config FILE"
            self._say(WARNING, guest, text)
            return guest._replace(stage=_IGNORED)
        if found.config.stubdom:
            world.watch(nodes.device_model_domid(guest.domid))
        # Behind a stubdomain we do not rely on the wrapper: not every libxl starts a device model for the stubdomain itself.
        wrapped = found.hooked and not found.config.stubdom
        config = found.config._replace(delegate=()) if found.hooked else found.config  # the wrapper starts a delegate
        return guest._replace(stage=_BUILDING, config=config, leave_to_wrapper=wrapped)

    def _create(self, guest: _Guest) -> _Guest:
        """Grant what the configuration asks for, before the guest's device model needs it."""
        world, config = self._world, guest.config
        stubdom = stubdom_of(guest.domid, world.store)
        if config.stubdom and stubdom is None:
            return guest  # the watch on its node will fire
        world.unwatch(nodes.device_model_domid(guest.domid))
        slots = frozenset(_slot(entry.bdf) for entry in config.pci if entry.bdf is not None)
        built = guest._replace(stage=_BUILT, served=slots)
        if guest.leave_to_wrapper or not config.wants_legacy:
            return built
        holder = guest.domid if stubdom is None else stubdom
        world.pauser.pause(holder)
        try:
            with world.lock():
                # Only after the pause: until then libxl may let it run at any moment.
                info = world.xen.domain_info(holder)
                ran = info is not None and info.cpu_time > 0
                when = self._occasion(guest, stubdom)
                plan = self._plan(guest, config, stubdom, when=when, map_legacy=self._map_legacy)
                late = self._in_vain(guest, plan) if stubdom is None else ran and _has_devices(stubdom, world.store)
                if late:
                    plan = self._plan(guest, config, stubdom, when=when, map_legacy=True)
                self._grant(guest, plan)
                self._delegate(guest, plan)
        except GuardLostError:
            raise
        except XlplugError as error:
            if not self._going(guest.domid):
                self._say(ERROR, guest, str(error))
            return built._replace(failed=True)
        finally:
            world.pauser.unpause(holder)
        if late and _passes_vga(plan):
            self._say(WARNING, guest, _LATE.format(_device_model_in(stubdom), guest.domid))
        elif ran and stubdom is not None:
            text = f"domain {stubdom} ran before the grants were made, and had no PCI device yet: in time"
            self._say(INFO, guest, text)
        elif ran:
            text = f"it ran before the grants were made; if the display stays dark: xl reboot {guest.domid}"
            self._say(WARNING, guest, text)
        return built

    def _occasion(self, guest: _Guest, stubdom: Domid | None) -> Occasion:
        """Whether guest RAM can be populated: a stubdomain is paused by now, but a device model in dom0 may have started."""
        world = self._world
        if stubdom is None:
            return _LATE_STARTING
        if restores(device_model_arguments(guest.domid, world.store)):
            return STARTING.without_ram(RESTORING)
        info = world.xen.domain_info(stubdom)
        return _LATE_STARTING if info is None or info.cpu_time else STARTING

    def _replug(self, guest: _Guest, config: DomainConfig) -> _Guest:
        """Bring the grants of a living guest in line with the devices that it has now, as libxl has recorded them."""
        world = self._world
        present = {_slot(entry.bdf) for entry in config.pci if entry.bdf is not None}
        served = present if guest.served is None else guest.served & present
        with world.lock():
            if self._going(guest.domid):
                return guest
            stubdom = stubdom_of(guest.domid, world.store)
            plan = self._plan(guest, config, stubdom, map_legacy=self._map_legacy)
            plugged = plan.legacy_owner is not None and _slot(plan.legacy_owner) not in served
            late = not plugged and config.wants_legacy and self._was_late(guest, plan, stubdom)
            if plugged or late:  # see _was_late: we map in the device model's place
                plan = self._plan(guest, config, stubdom, map_legacy=True)
            for step in grants.revoke_detached(plan, world.xen, world.store, lambda _: None):
                self._say(INFO, guest, f"taken back, its device is gone: {step}")
            if config.wants_legacy:
                later = [a.device.bdf for a in plan.devices if _slot(a.device.bdf) not in served]
                self._grant(guest, plan, later)
                if late:
                    self._say(WARNING, guest, _LATE.format(_device_model_in(stubdom), guest.domid))
        return guest._replace(served=frozenset(served), failed=False)

    def _was_late(self, guest: _Guest, plan: Plan, stubdom: Domid | None) -> bool:
        """Whether the device model has tried to map the VGA set without the rights, and so in vain.

        It tries when it learns of the device.  For a device that is plugged in later, the rights are never there at that time.
        For one that was there at the start, they were missing if nobody has made a grant so far: behind a stubdomain always,
        and in dom0 from Xen 4.23 on.
        """
        if not _passes_vga(plan) or Journal(self._world.store, guest.domid, guest.uuid).read().state:
            return False
        return stubdom is not None or self._in_vain(guest, plan)

    def _in_vain(self, guest: _Guest, plan: Plan) -> bool:
        """Whether QEMU in dom0 has tried to map the VGA set and failed."""
        return grants.tried_in_vain(plan, self._world.xen, self._world.store)

    def _plan(
        self,
        guest: _Guest,
        config: DomainConfig,
        stubdom: Domid | None,
        *,
        map_legacy: bool,
        when: Occasion = _LATE_STARTING,
    ) -> Plan:
        host = self._world.snapshot(config)
        return build(config, host, Who(guest.domid, stubdom), when, map_legacy=map_legacy and config.wants_legacy)

    def _grant(self, guest: _Guest, plan: Plan, plugged: Collection[Bdf] = ()) -> None:
        world = self._world
        done = grants.grant(plan, world.xen, world.store, lambda _: None, plugged=plugged).done
        for warning in plan.warnings:  # refusals are raised, as one line
            self._say(WARNING, guest, str(warning))
        for step in done:
            self._say(INFO, guest, str(step))

    def _delegate(self, guest: _Guest, plan: Plan) -> None:
        """Start the guest's delegate, if it is to have one: no wrapper does."""
        if plan.served:
            self._world.delegate(guest.domid, guest.config.delegate)
            self._say(INFO, guest, f"its delegate serves {', '.join(str(each.spec.host) for each in plan.served)}")

    def _say(self, priority: int, guest: _Guest, text: str) -> None:
        """Log what was done every time, and what is wrong only once."""
        if priority != INFO and (guest.domid, text) in self._said:
            return
        self._said.add((guest.domid, text))
        self._world.log(priority, f"domain {guest.domid} ({guest.name}): {text}")


def _device_model_in(stubdom: Domid | None) -> str:
    return "the device model in dom0" if stubdom is None else f"domain {stubdom}"


def _has_devices(stubdom: Domid, store: Store) -> bool:
    """Whether libxl has given a stubdomain its devices; before that, the device model in it does not learn of the guest's.

    Source: tools/libs/light/libxl_pci.c, libxl__device_pci_add (the stubdomain comes first) and libxl__create_pci_backend.
    """
    count = store.read(f"{nodes.pci_devices(stubdom)}/num_devs") or "0"
    return not count.isdecimal() or int(count) > 0


def _passes_vga(plan: Plan) -> bool:
    """Whether the device model will map the VGA ranges for a display."""
    return any(s.kind == IOPORT and s.device is not None and VGA_PORT_SET & RangeSet([s.range]) for s in plan.steps)


def _slot(bdf: Bdf) -> str:
    """A function's address without its number: all functions of a slot are plugged together."""
    return str(bdf).rpartition(".")[0]
