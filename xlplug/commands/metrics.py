# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug metrics``: numbers for Prometheus, in its text format, for the textfile collector of node_exporter.

Source of the format: https://prometheus.io/docs/instrumenting/exposition_formats/ (text-based format).
"""

import errno
from collections.abc import Iterable, Iterator, Mapping

import xlplug
from xlplug.dom0 import nodes, streams, tally
from xlplug.dom0.files import write_whole
from xlplug.execute.compare import compare
from xlplug.model.errors import EXIT_DONE, XenError
from xlplug.model.hypervisor import HeldRights, Hypervisor, Store

_Sample = tuple[Mapping[str, str], float]


def metrics(output: str) -> int:
    """Write them; into a file whole, so that a collector never reads a half."""
    from xlplug.hook.device_model import is_ours
    from xlplug.hook.install import first_xl
    from xlplug.xen.ctrl import XenCtrl
    from xlplug.xen.store import XenStore

    first = first_xl()
    with XenCtrl() as xen, XenStore() as store:
        text = "".join(collect(xen, store, tally.read(), hooked=first is not None and is_ours(first)))
    if output == "-":
        streams.write(text)
        return EXIT_DONE
    write_whole(output, text.encode())
    return EXIT_DONE


def collect(xen: Hypervisor, store: Store, counts: Mapping[str, float], *, hooked: bool) -> Iterator[str]:
    """All metrics, one after the other."""
    yield _metric("info", "gauge", "The version of xlplug.", [({"version": xlplug.__version__}, 1)])
    yield _metric("hook_installed", "gauge", "Whether xl create goes through xlplug (1) or not (0).", [({}, hooked)])
    states: dict[str, int] = {}
    ranges: list[_Sample] = []
    granted = _granted(store)
    held = _held(xen) if granted else {}
    for domid in granted:
        name = store.read(nodes.name(domid)) or ""
        for row in compare(domid, held or {}, store):
            states[row.state] = states.get(row.state, 0) + (row.domid == domid and row.kind == "iomem")
            for state, what in (("granted", row.ours), *((("missing", row.missing),) if held is not None else ())):
                labels = {"domid": str(domid), "domain": name, "grantee": row.grantee, "kind": row.kind, "state": state}
                ranges.append((labels, what.total))
    yield _metric(
        "domains", "gauge", "Domains by the state of their grants.", [({"state": s}, n) for s, n in states.items()]
    )
    yield _metric(
        "domain_granted", "gauge", "Ports, or frames of 4 KiB, granted by xlplug; missing: not held any more.", ranges
    )
    runs, waits = [], []
    for key, value in counts.items():
        match key.split():
            case ["runs", by, outcome]:
                runs.append(({"by": by, "outcome": outcome}, value))
            case ["seconds", by]:
                waits.append(("hook_seconds_sum", {"by": by}, value))
            case ["waits", by]:
                waits.append(("hook_seconds_count", {"by": by}, value))
    yield _metric("runs_total", "counter", "Runs since the host was booted, by who ran and how it ended.", runs)
    yield _head("hook_seconds", "summary", "Seconds that device models had to wait for their grants.")
    for name, labels, value in sorted(waits, key=lambda wait: (wait[1]["by"], wait[0])):
        yield _line(name, labels, value)


def _held(xen: Hypervisor) -> dict[int, HeldRights] | None:
    """What Xen reports; None where its dump cannot be had, because it does not fit or a guest floods it."""
    try:
        return xen.held()
    except XenError as error:
        if error.errno not in (errno.ENODATA, errno.EAGAIN):
            raise
        return None


def _granted(store: Store) -> list[int]:
    names = [name for name in store.list(nodes.LIBXL) if name.isdecimal()]
    return sorted(int(name) for name in names if store.read(f"{nodes.journal(name)}/state"))


def _metric(name: str, kind: str, meaning: str, samples: Iterable[_Sample]) -> str:
    return _head(name, kind, meaning) + "".join(_line(name, labels, value) for labels, value in samples)


def _head(name: str, kind: str, meaning: str) -> str:
    return f"# HELP xlplug_{name} {meaning}\n# TYPE xlplug_{name} {kind}\n"


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    number = int(value) if value == int(value) else value
    return f"xlplug_{name}{f'{{{inside}}}' if inside else ''} {number}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
