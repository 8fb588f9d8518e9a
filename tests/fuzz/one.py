# SPDX-License-Identifier: LGPL-2.1-only
"""``python -m tests.fuzz.one TARGET SECONDS FOLDER [OPTION...]``: one target under libFuzzer, in this process.

FOLDER gets what covers something new; ``FOLDER.found`` what is a finding.  Of every 64th input a part is repeated (growth.py).
"""

import os
import sys
from pathlib import Path

import atheris

HERE = Path(__file__).parent
_EVERY = 64

with atheris.instrument_imports(include=["xlplug", "json"], enable_loader_override=False):
    from tests.fuzz.growth import look
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name, seconds, folder = *sys.argv[1:3], os.path.abspath(sys.argv[3])  # a target may change the working directory
    target = TARGETS[name]
    os.makedirs(folder, exist_ok=True)
    number = 0

    def one(data: bytes) -> None:
        nonlocal number
        target(data)
        number += 1
        if target.repeats and number % _EVERY == 0:
            look(target, data)

    words = HERE / "dictionaries" / name
    arguments = [
        sys.argv[0], f"-max_total_time={seconds}", "-max_len=8192", "-timeout=20", "-rss_limit_mb=3000", "-print_final_stats=1",
        f"-artifact_prefix={folder}.found-", *sys.argv[4:], *([f"-dict={words}"] if words.exists() else []),
        folder, str(HERE / "corpus" / name),
    ]  # fmt: skip
    atheris.Setup(arguments, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
