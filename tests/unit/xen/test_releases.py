# SPDX-License-Identifier: LGPL-2.1-only
"""Xen versions that no machine here has: a library is judged by what it has and answers, never by its number.

The libraries are real ones, compiled here and found by the dynamic linker, that answer as a given Xen would: EACCES to
calls of another interface version (tests/contract/versions.py).  The numbers come with the environment, and the names of
versions and functions are changed in the compiled file, so that two libraries are compiled for all tests.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import _cffi_backend
import pytest

from tests.abi.oracle import require
from tests.contract.versions import INTERFACES
from tests.unit.xen.test_lib import hypervisor
from xlplug.xen.protocols import CTRL_CALLS

#: getinfolist writes dom0 where 4.14 to 4.23 do, or SHIFT bytes later, and as many more bytes as MORE says.
SOURCE = """
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#define NUMBER(name) atoi(getenv(name))
static int answer(int xen, int library) { errno = xen == library ? ESRCH : EACCES; return -1; }
void *xc_interface_open(void) { return "handle"; }
int xc_domain_ioport_permission(void) { return answer(NUMBER("XEN_DOMCTL"), NUMBER("LIBRARY_DOMCTL")); }
int xc_domain_getinfolist(void *xch, unsigned first, unsigned room, char *info)
{
    int xen = NUMBER("XEN_SYSCTL"), library = NUMBER("LIBRARY_SYSCTL");
    if (xen != library) return answer(xen, library);
    if (first > 0) return 0;
    memset(info, 0, 112 + NUMBER("MORE"));
    info[4] = 0x20;
    info[10] = info[NUMBER("SHIFT") + 64] = 1;
    return 1;
}
"""
LOGGER = 'void *xtl_createlogger_stdiostream(void) { return "logger"; } void xtl_logger_destroy(void *l) { }'
PROGRAM = """
import sys
sys.path[:0] = sys.argv[2:]
from xlplug.model.errors import XlplugError
from xlplug.xen import ctrl
ctrl.require_dom0 = lambda: None  # this machine may be none; what that finds is tested elsewhere
try:
    with ctrl.XenCtrl(sys.argv[1]) as xen:
        print("opened", xen.version_text, [d.domid for d in xen.domains()])
except XlplugError as error:
    print(error)
"""


FOLDERS = [str(Path(__file__).parents[3]), str(Path(_cffi_backend.__file__).parent)]
NAME = "libxenctrl.so.4.00"  # as compiled


def compiled(path: Path, source: str, soname: str) -> bytes:
    done = subprocess.run(
        ["gcc", "-shared", "-fPIC", "-w", "-o", str(path), f"-Wl,-soname,{soname}", "-x", "c", "-"],
        input=source, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return path.read_bytes()


class Libraries(NamedTuple):
    ctrl: bytes
    logger: bytes


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Libraries:
    if shutil.which("gcc") is None:
        require("abi", "gcc is not installed")
    folder = tmp_path_factory.mktemp("libraries")
    text = SOURCE + "".join(f"int {name}(void) {{ return 0; }}\n" for name in CTRL_CALLS if f"{name}(" not in SOURCE)
    return Libraries(compiled(folder / "ctrl", text, NAME), compiled(folder / "logger", LOGGER, "libxentoollog.so.1"))


def renamed(library: bytes, old: str, new: str) -> bytes:
    """With another string in its tables, which is not longer."""
    given, wanted = (f"\0{name}\0".encode() for name in (old, new))
    assert given in library
    return library.replace(given, wanted.ljust(len(given), b"\0"))


Opening = Callable[..., str]


@pytest.fixture
def opening(tmp_path: Path, libraries: Libraries) -> Opening:
    """Opens a library of one version on a Xen of another, and returns the one line that is printed."""

    def run(
        xen: tuple[int, int], library: tuple[int, int] | None = None, *,
        named: tuple[int, int] | None = None, without: str = "", shift: int = 0, more: int = 0,
    ) -> str:  # fmt: skip
        library = library or xen
        latest = INTERFACES[max(INTERFACES)]
        (xen_domctl, xen_sysctl), (domctl, sysctl) = (
            INTERFACES.get(v, (latest[0] + v[1], latest[1] + v[1])) for v in (xen, library)
        )
        numbers = {
            "XEN_DOMCTL": xen_domctl, "XEN_SYSCTL": xen_sysctl, "LIBRARY_DOMCTL": domctl, "LIBRARY_SYSCTL": sysctl,
            "SHIFT": shift, "MORE": more,
        }  # fmt: skip
        folder = tmp_path / "lib"
        folder.mkdir()
        (folder / "libxentoollog.so.1").write_bytes(libraries.logger)
        soname = "libxenctrl.so.{}.{}"
        made = renamed(libraries.ctrl, NAME, soname.format(*library))
        made = renamed(made, without, "gone") if without else made
        (folder / soname.format(*(named or library))).write_bytes(made)
        root = hypervisor(
            tmp_path / "xen", type="xen", version__major=str(xen[0]), version__minor=str(xen[1]), version__extra=".1"
        )
        done = subprocess.run(
            [sys.executable, "-ISc", PROGRAM, root, *FOLDERS], capture_output=True, text=True,
            env={**os.environ, "LD_LIBRARY_PATH": str(folder), **{name: str(n) for name, n in numbers.items()}},
        )  # fmt: skip
        assert done.stderr == ""
        assert done.stdout.count("\n") == 1
        return done.stdout.strip()

    return run


@pytest.mark.parametrize("version", [*INTERFACES, (4, 24), (4, 31), (5, 0)], ids=str)
def test_every_version_opens_with_its_own_library(opening: Opening, version: tuple[int, int]) -> None:
    assert opening(version) == "opened {}.{}.1 [0]".format(*version)


def test_a_structure_that_grew_at_its_end_is_fine(opening: Opening) -> None:
    assert opening((4, 24), more=900) == "opened 4.24.1 [0]"


@pytest.mark.parametrize(
    ("xen", "library"),
    [
        ((4, 20), (4, 17)), ((4, 17), (4, 20)), ((4, 17), (4, 14)), ((4, 20), (4, 14)), ((4, 14), (4, 17)), ((4, 14), (4, 20)),
        ((4, 18), (4, 17)), ((4, 21), (4, 20)), ((4, 20), (4, 21)), ((4, 22), (4, 21)), ((4, 24), (4, 23)), ((4, 23), (4, 24)),
    ],
)  # fmt: skip
def test_another_version_s_library_by_the_running_one_s_name(
    opening: Opening, tmp_path: Path, xen: tuple[int, int], library: tuple[int, int]
) -> None:
    version, other = "{}.{}".format(*xen), "{}.{}".format(*library)
    assert opening(xen, library, named=xen) == (
        f"{tmp_path}/lib/libxenctrl.so.{version} is Xen {other}'s library, and the running Xen {version}.1 refuses it; "
        f"install the real libxenctrl.so.{version} (Debian: libxenmisc{version}), or boot Xen {other} [XLP105]"
    )


def test_only_another_version_s_library(opening: Opening) -> None:
    told = opening((4, 41), (4, 40))
    assert told.startswith("the running Xen's libxenctrl.so.4.41 is not installed, only Xen ")
    assert "4.40's is; install it (Debian: libxenmisc4.41), or boot Xen " in told


@pytest.mark.parametrize("name", CTRL_CALLS)
def test_a_function_that_is_gone(opening: Opening, name: str) -> None:
    assert opening((4, 24), without=name) == (
        f"{name} of the running Xen's libxenctrl.so.4.24 is not as this xlplug knows it; "
        "use an xlplug that is newer than this Xen [XLP105]"
    )


def test_a_structure_that_changed(opening: Opening) -> None:
    assert opening((4, 24), shift=8).startswith(
        "xc_domain_getinfolist of the running Xen's libxenctrl.so.4.24 is not as"
    )
