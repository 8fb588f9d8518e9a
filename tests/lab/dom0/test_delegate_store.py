# SPDX-License-Identifier: LGPL-2.1-only
"""xenstored dies under a delegate.  The last tests of their part: dom0 has no toolstack afterwards."""

import os
import signal
import time
from pathlib import Path

from tests.lab.dom0.conftest import Guests, sh, xlplug
from tests.lab.dom0.delegates import delegate
from tests.lab.dom0.puppet import EDU, HVM, Puppet, assignable
from tests.lab.dom0.test_delegate_death import EDU_AT, IDS, KNOWN, ONES, place, waited


def test_xenstored_dies(tmp_path: Path) -> None:
    """Nobody can bring it back, or the guest's record; the guest goes on, and commands say what is the matter."""
    assignable(EDU)
    domid, _ = Guests(tmp_path).make(HVM)
    with Puppet(domid) as puppet, delegate(domid, f"{EDU},vslot=10") as served:
        assert sh("xl", "unpause", str(domid)).returncode == 0
        place(puppet)
        with waited(puppet, "xenstored dies", (KNOWN, IDS)):
            os.kill(int(Path("/run/xenstored.pid").read_text()), signal.SIGKILL)
            time.sleep(1)
        for words in (("verify", str(domid)), ("dm", str(domid), "--adopt"), ("dm", str(domid), EDU)):
            done = xlplug(*words)
            assert done.returncode == 1
            assert done.stderr.startswith("xlplug: xenstored cannot be reached (ECONNREFUSED); "), done.stderr
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(20) == 0
        assert puppet.read(EDU_AT) == ONES
    assert served.complaints == [
        f"xlplug: delegate of domain {domid}: xenstored does not answer, so its record stays until the guest ends"
    ]
