# SPDX-License-Identifier: LGPL-2.1-only
"""Reading Xen's q dump: what Xen prints, what others print in between, and what a dump must never be taken for."""

from pathlib import Path

import pytest

from xlplug.model.hypervisor import DomainInfo, HeldRights
from xlplug.model.rangeset import RangeSet
from xlplug.xen.in_memory import MemXen, dom0_rights
from xlplug.xen.qdump import parse_q, parse_servers

BEGIN = "(XEN) 'q' pressed -> dumping domain info (now = 11419308653)\n"
PORTS, MEMORY = "{ 3b0-3bb, 3c0-3df }", "{ a0-bf, febf0 }"
#: A guest in the form of the real dump (q-4.17.txt, see below), with rights of both kinds.
GUEST = f"""\
(XEN) General information for domain 7:
(XEN)     refcnt=3 dying=0 pause_count=1
(XEN)     nr_pages=16384 xenheap_pages=6 shared_pages=0 paged_pages=0 dirty_cpus={{}} max_pages=16640
(XEN)     handle=6d1a5d5e-2f5b-4d4e-8a43-0f1f4a1a2b3c vm_assist=00000000
(XEN)     paging assistance: hap refcounts translate external\x20
(XEN) Rangesets belonging to domain 7:
(XEN)     ioreq_server 0 pci {{ 0, 8-9, b, 18, 20, 28 }}
(XEN)     ioreq_server 0 memory {{ a0000-bffff, fec00000-fec00fff }}
(XEN)     ioreq_server 0 port {{ 0-1f, 60, cf8-cff }}
(XEN)     Interrupts {{ }}
(XEN)     I/O Memory {MEMORY}
(XEN)     log-dirty  {{ }}
(XEN)     I/O Ports  {PORTS}
(XEN) Memory pages belonging to domain 7:
(XEN)     DomPage list too long to display
"""
DOM0 = GUEST.replace("domain 7", "domain 0").replace(PORTS, "{ 0-ffff }").replace(MEMORY, "{ 0-fcfffff }")
HELD = HeldRights(RangeSet.parse(PORTS), RangeSet.parse(MEMORY))


def test_a_dump() -> None:
    found = parse_q(BEGIN + DOM0 + GUEST)
    assert found == {0: HeldRights(RangeSet([(0, 0x10000)]), RangeSet([(0, 0xFD00000)])), 7: HELD}


def test_a_dump_of_the_real_xen_4_17() -> None:
    """Of the lab: two paused 2-vCPU guests, made by stock xl with ioports=["3b0-3bb"]."""
    text = (Path(__file__).parents[2] / "contract" / "q-4.17.txt").read_text()
    guest = HeldRights(RangeSet([(0x3B0, 0x3BC)]), RangeSet())
    assert parse_q(text) == {0: dom0_rights((4, 17)), 1: guest, 2: guest}


@pytest.mark.parametrize(
    "stamp", ["[2026-11-23 11:29:00] ", "[2026-11-23 11:29:00.123] ", "[    3.141592] ", "[1f2e3d4c] "]
)
def test_timestamps(stamp: str) -> None:
    assert parse_q((BEGIN + GUEST).replace("(XEN) ", f"(XEN) {stamp}")) == {7: HELD}


def test_the_last_dump_counts_even_after_a_torn_one() -> None:
    torn = GUEST.replace(PORTS, "{ 3b0")
    later = GUEST.replace(PORTS, "{ }")
    assert parse_q(BEGIN + torn + "(XEN) other\n" + BEGIN + later) == {7: HELD._replace(ports=RangeSet())}


@pytest.mark.parametrize(
    "line", ["(d7) 'q' pressed", "(XEN) [1] d7 'q' pressed", "'q' pressed", "(XEN) x\r'q' pressed"]
)
def test_a_dump_begins_with_a_line_of_xens_own(line: str) -> None:
    """What only looks like its beginning does not take its place."""
    assert parse_q(f"{BEGIN}{GUEST}{line}\n") == {7: HELD}


def test_no_dump_is_nothing() -> None:
    assert parse_q("") == {}
    assert parse_q(GUEST) == {}, "its beginning was overwritten in the console ring"


def test_the_hypervisor_in_memory_prints_the_same() -> None:
    xen = MemXen()
    xen.add_domain(DomainInfo(7), HELD)
    xen.add_domain(DomainInfo(8), HeldRights())
    assert parse_q(xen.q_text()) == xen.held() == {0: dom0_rights((4, 17)), 7: HELD, 8: HeldRights()}


#: Any HVM guest may write lines to port 0xe9; Xen puts "(d5) " before them, and prints them all while it dumps.
FORGED = "".join(f"(d5) {line.removeprefix('(XEN) ')}\n" for line in (BEGIN + DOM0 + GUEST).splitlines())


@pytest.mark.parametrize(
    "forged", [FORGED, FORGED.replace("(d5) ", "(d5) (XEN) "), FORGED.replace("(d5) ", "(d12) [1.0] ")]
)
def test_a_guest_cannot_forge_rights(forged: str) -> None:
    bare = GUEST.replace(PORTS, "{ }").replace(MEMORY, "{ }")
    for text in (BEGIN + DOM0 + bare + forged, BEGIN + forged + DOM0 + bare, forged + BEGIN + DOM0 + bare):
        assert parse_q(text)[7] == HeldRights()
    lines = (BEGIN + DOM0 + bare).splitlines(keepends=True)
    between = "".join(line + forged for line in lines)
    assert parse_q(between)[7] == HeldRights()


def pieces(text: str) -> list[int]:
    """Where Xen gives the console lock up within the dump: after each printk (rangeset_printk's are words)."""
    return [i for i, c in enumerate(text) if c in " ,\n"]


@pytest.mark.parametrize(
    "other",
    ["(d5) hello\n", "(d5) }\n", "(d5) { 1-2 }\n", "(XEN) other }\n", "(XEN) CPU1: (half a line)", "from dom0\n", "\n"],
)
def test_other_output_anywhere_is_harmless_or_refused(other: str) -> None:
    """Never a wrong answer: either exactly what is held, or a refusal, wherever the other line comes in between."""
    text = BEGIN + DOM0 + GUEST
    right = parse_q(text)
    refused = 0
    for at in pieces(text):
        if at < len(BEGIN):
            continue
        try:
            assert parse_q(text[: at + 1] + other + text[at + 1 :]) == right, text[: at + 1] + other
        except ValueError:
            refused += 1
    assert refused


SERVERS = """\
(XEN) 'q' pressed -> dumping domain info (now = 1)
(XEN) General information for domain 3:
(XEN) Rangesets belonging to domain 3:
(XEN)     ioreq_server 1 pci { 80, 88-89 }
(XEN)     ioreq_server 1 memory { f0000000-f00fffff, 800000000-800ffffff }
(XEN)     ioreq_server 1 port { }
(XEN)     ioreq_server 0 pci { 0, 8-9 }
(XEN)     ioreq_server 0 memory { a0000-bffff }
(XEN)     ioreq_server 0 port { 0-1f, cf8-cff }
(XEN)     Interrupts { }
(XEN)     I/O Memory { a0-bf }
(XEN)     I/O Ports  { }
(XEN) Memory pages belonging to domain 3:
(XEN) General information for domain 0:
(XEN) Rangesets belonging to domain 0:
(XEN)     I/O Memory { }
(XEN)     I/O Ports  { }
(XEN) Memory pages belonging to domain 0:
"""


def test_ioreq_servers_in_bytes_and_in_order() -> None:
    found = parse_servers(SERVERS)
    assert [server.id for server in found[3]] == [0, 1]
    assert str(found[3][1].pci) == "{ 80, 88-89 }"
    assert found[3][1].memory == RangeSet([(0xF0000000, 0xF0100000), (0x8_0000_0000, 0x8_0100_0000)])
    assert found[3][0].ports.covers(0xCF8, 0xD00)
    assert found[0] == ()
    assert str(parse_q(SERVERS)[3].memory) == "{ a0-bf }", "the others are no rights"


@pytest.mark.parametrize(
    "tear",
    [
        ("(XEN)     ioreq_server 1 port { }\n", ""),
        ("ioreq_server 1 port { }", "ioreq_server 1 port { 1"),
        ("ioreq_server 1 port { }", "ioreq_serv(XEN) hello"),
        ("ioreq_server 1 port { }", "ioreq_server 1 buffer { }"),
    ],
)
def test_a_torn_dump_of_servers_is_refused(tear: tuple[str, str]) -> None:
    text = SERVERS.replace(*tear)
    assert text != SERVERS
    with pytest.raises(ValueError, match="torn dump"):
        parse_servers(text)
