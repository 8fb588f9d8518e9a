# SPDX-License-Identifier: LGPL-2.1-only
"""Every fault at every position of a scenario, and what must be true after each."""

import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby

from tests.fault.inject import Fault, FaultyLog, FaultyStore, FaultyXen, Injector, Killed, Point
from tests.fault.scenarios import Run, Scenario, Scene, revoke
from xlplug.execute.journal import Entry, Journal, is_vga
from xlplug.model.errors import XlplugError
from xlplug.model.rangeset import RangeSet
from xlplug.model.steps import IOMEM, PERMISSIONS

__all__ = ["CLASSES", "Trial", "failures"]

CLASSES = ("errno", "two errnos", "xenstore", "xenstored gone", "Ctrl-C", "Ctrl-C again", "log", "kill", "xl destroy")


class Trial:
    """One run with one fault."""

    def __init__(self, scene: Scene, run: Run, fault: Fault) -> None:
        self.scene = scene
        self.injector = Injector(fault)
        self.error: BaseException | None = None
        xen, store = FaultyXen(scene.xen, self.injector), FaultyStore(scene.store, self.injector)
        log = FaultyLog(self.injector)
        self.injector.destroy = scene.destroy
        try:
            run(xen, store, log)  # type: ignore[arg-type] # a hypervisor that has no q dump
        except (XlplugError, KeyboardInterrupt, Killed) as error:
            self.error = error
        assert signal.SIGINT not in signal.sigpending()

    @property
    def code(self) -> int:
        """What a command would exit with; -9 for a kill."""
        if isinstance(self.error, Killed):
            return -9
        if isinstance(self.error, KeyboardInterrupt):
            return 1
        return self.error.exit_code if isinstance(self.error, XlplugError) else 0


def faults(scenario: Scenario, trial: Trial) -> Iterator[tuple[str, Fault]]:
    """Every fault that a run without any shows to be possible."""
    for point in _thinned(trial.injector.points):
        n = point.number
        for code in point.errnos:
            yield "errno", Fault("errno", n, code=code)
        for after in (False, True):
            yield "Ctrl-C", Fault("signal", n, after)
            yield "kill", Fault("kill", n, after)
            if point.side == "store":
                yield "xenstore", Fault("store", n, after)
        yield "Ctrl-C again", Fault("signal", n, lasting=True)
        if point.side == "store":
            yield "xenstored gone", Fault("store", n, lasting=True)
        yield "xl destroy", Fault("destroy", n, after=True)
        if point.side == "log":
            for code in range(4):
                yield "log", Fault("log", n, lasting=True, code=code)


def _thinned(points: Sequence[Point]) -> Iterator[Point]:
    """All positions; of the same call again and again, page by page, the first three and the last."""
    for _, run in groupby(points, key=lambda point: (point.side, point.call, point.add)):
        same = list(run)
        yield from same if len(same) < 8 else (*same[:3], same[-1])


def second_faults(scenario: Scenario, start: Scene, first: Fault) -> Iterator[Fault]:
    """The first fault, and an ENOMEM at each call that follows it."""
    trial = Trial(start.copy(), scenario.run, first)
    if trial.code in (0, 1):
        return
    for point in _thinned(trial.injector.points[first.at + 1 :]):
        if point.errnos:
            yield first._replace(second=point.number)


def failures(scenario: Scenario, version: tuple[int, int]) -> tuple[Counter[str], Counter[str], list[str]]:
    """How often each class of fault was tried, how often it went wrong, and what was wrong."""
    judge = Judge(scenario, version)
    tried: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    texts: list[str] = []
    todo = list(faults(scenario, judge.done))
    seen: set[int] = set()
    for kind, fault in todo:
        if kind == "errno" and fault.at not in seen:
            seen.add(fault.at)
            todo += [("two errnos", second) for second in second_faults(scenario, judge.start, fault)]
        tried[kind] += 1
        said = judge(fault)
        if said:
            wrong[kind] += 1
            point = judge.point
            texts.append(f"{scenario.name} on {version}, {kind} {fault}: {point}: {said}")
    return tried, wrong, texts


class Judge:
    """Tries a fault and says what is wrong with what it left, "" where nothing is."""

    def __init__(self, scenario: Scenario, version: tuple[int, int]) -> None:
        self.scenario = scenario
        self.start = scenario.begin(version)
        self.clean = scenario.clean(version)
        self.done = Trial(self.start.copy(), scenario.run, Fault())
        assert self.done.code == 0, self.done.error
        assert not untruth(self.done.scene)
        revoked = Trial(self.start.copy(), revoke, Fault())
        self.nothing = revoked.scene
        after = Trial(self.done.scene.copy(), revoke, Fault())
        assert after.scene.state == self.nothing.state, "revoking what was granted is revoking all"
        self.point = ""
        self.wrong_before = untruth(self.start)  # libxl revokes what it had granted for a device, and ours with it

    def __call__(self, fault: Fault) -> str:
        trial = Trial(self.start.copy(), self.scenario.run, fault)
        at = fault.at
        self.point = f"{trial.injector.points[at].side} {trial.injector.points[at].call}, exit {trial.code}"
        # Up to 4.22 unmapping ports also revokes libxl's, which are granted again by the next call: not if that is prevented.
        if fault.kind == "destroy":
            return f"a record of what is gone: {trial.scene.nodes}" if trial.scene.nodes else ""
        said = untruth(trial.scene, whole=trial.code not in (-9, 4))
        return self._judge(trial) or (said if said != self.wrong_before else "")

    def _judge(self, trial: Trial) -> str:
        scene, done = trial.scene, self.done.scene
        mended = not (trial.injector.fault.kind == "store" and trial.injector.fault.lasting)
        if trial.code == 0:
            return _differs(scene, done, "what a run without fault leaves")
        if trial.code == -9:
            return self._after_kill(scene)
        if trial.code == 1:
            if trial.injector.changed:
                return f"exit 1 after {trial.injector.changed} calls"
            return _differs(scene, self.start, "before", record=mended)
        if trial.code == 3:
            return _differs(scene, self.clean, "before", record=mended)
        if trial.code != 4:
            return f"exit {trial.code}"
        return self._after_kill(scene) if scene.state != self.nothing.state or entry(scene).every else ""

    def _after_kill(self, scene: Scene) -> str:
        """The next run ends it: whichever it is."""
        for name, run, wanted in (("again", self.scenario.run, self.done.scene), ("revoke", revoke, self.nothing)):
            then = Trial(scene.copy(), run, Fault())
            if then.code:
                return f"then {name}: {then.error}"
            if then.scene.state != wanted.state:
                return f"then {name}: {_first_difference(then.scene, wanted)}"
            if entry(then.scene).every != entry(wanted).every:
                return f"then {name}: another record"
            if said := untruth(then.scene):
                return f"then {name}: {said}"
        return ""


def entry(scene: Scene) -> Entry:
    return Journal(scene.store, 7, "seven").read()


def untruth(scene: Scene, *, whole: bool = True) -> str:
    """What the record does not know, or knows wrongly; and what libxl has lost."""
    record, held = entry(scene), scene.xen.held()
    if any(map(is_vga, record.every)) != ("/tool/xlplug-vga/7" in scene.store.nodes):
        return "the list of who has legacy VGA is wrong"
    for domid in (7, 8):
        for kind in ("ports", "memory"):
            has, libxl = getattr(held[domid], kind), getattr(scene.libxl[domid], kind)

            def recorded(steps: tuple[object, ...], domid: int = domid, kind: str = kind) -> RangeSet:
                return RangeSet(
                    s.range  # type: ignore[attr-defined]
                    for s in steps
                    if s.op in PERMISSIONS and s.domid == domid and (s.kind == IOMEM) == (kind == "memory")  # type: ignore[attr-defined]
                )

            if whole and libxl - has:
                return f"domain {domid} has lost {libxl - has} of libxl's {kind}"
            if has - libxl - recorded(record.every):
                return f"domain {domid} has {has - libxl - recorded(record.every)} of {kind} that is not recorded"
            if whole and recorded(record.steps) - has:
                return f"domain {domid} has not {recorded(record.steps) - has} of {kind} that is recorded"
    return ""


def _differs(scene: Scene, wanted: Scene, name: str, *, record: bool = True) -> str:
    if scene.state != wanted.state:
        return f"not {name}: {_first_difference(scene, wanted)}"
    if record and scene.nodes != wanted.nodes:
        changed = dict(set(scene.nodes.items()) ^ set(wanted.nodes.items()))
        return f"another record than {name}: {sorted(changed)[:3]}"
    return ""


def _first_difference(scene: Scene, wanted: Scene) -> str:
    for here, there in zip(scene.state, wanted.state, strict=True):  # type: ignore[call-overload]
        if here != there:
            return f"{here} and not {there}"
    return ""
