# SPDX-License-Identifier: LGPL-2.1-only
"""``python -m tests.fuzz [--minutes N] [--seed N] [TARGET...]``: every target, or those named, for as long altogether.

As many at a time as there are processors.  What covers something new is kept in build/fuzz/TARGET, and is where the next run
begins; the seeds are in tests/fuzz/corpus.  With ``--seed`` a run from an empty build/fuzz tries the same inputs each time, at
most `_RUNS` for a target: CI finds nothing that was not there to be found before.  Exit status 1 when there is a finding, which
is kept beside it.
"""

import argparse
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from tests.fuzz.targets import TARGETS

FOLDER = "build/fuzz"
_RUNS = 10_000
PRELOAD = "preload"  #: hooks/preload, in C: under ASan and UBSan, and with a driver of its own
_SANITIZED = "-std=gnu11 -O1 -g -Wall -Wextra -Werror -fsanitize=address,undefined -fno-sanitize-recover=all".split()


class Ran(NamedTuple):
    """How often a target ran, what it covers, how much it has kept; and what was found, "" for nothing."""

    target: str
    executions: str
    covered: str
    kept: int
    finding: str


def run(seconds: int, seed: int, target: str) -> Ran:
    if target == PRELOAD:
        return run_preload(seconds)
    folder = f"{FOLDER}/{target}"
    os.makedirs(folder, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz.one", target, str(seconds), folder]
    command += [f"-seed={seed}", f"-runs={_RUNS}"] if seed else []
    environment = {**os.environ, "PYTHONHASHSEED": "0"}  # sets in one order
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    with open(f"{folder}.log", "w") as log:
        log.write(done.stdout + done.stderr)
    executions = re.findall(r"number_of_executed_units: (\d+)", done.stderr)
    covered = re.findall(r"cov: (\d+)", done.stderr)
    return Ran(
        target,
        executions[-1] if executions else "-",
        covered[-1] if covered else "-",
        len(os.listdir(folder)),
        "" if done.returncode == 0 and executions else _finding(done.stdout + done.stderr),
    )


def run_preload(seconds: int) -> Ran:
    """The same for the preload library."""
    program = f"{FOLDER}/{PRELOAD}"
    source = ["tests/fuzz/preload/fuzz.c", "-lpthread", "-ldl"]
    compiler = ["gcc", *_SANITIZED, "-fsanitize-coverage=trace-pc", "-o", program, *source]
    done = subprocess.run(compiler, capture_output=True, text=True)
    if done.returncode == 0:
        command = [program, str(seconds), f"{program}.found"]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    with open(f"{program}.log", "w") as log:
        log.write(done.stdout + done.stderr)
    numbers = re.findall(r"(\d+) (?:runs|places|kept)", done.stdout)
    if done.returncode or len(numbers) != 3:
        return Ran(PRELOAD, "-", "-", 0, done.stderr[:3000] or "it said nothing")
    return Ran(PRELOAD, numbers[0], numbers[1], int(numbers[2]), "")


def _finding(text: str) -> str:
    """The traceback and where the input is, without the statistics around it."""
    at = text.find("Uncaught Python exception")
    lines = text[max(at, 0) if at >= 0 else -3000 :].splitlines()
    return "\n".join(line for line in lines if not re.match(r"stat::|==\d+==|#\d|MS: |SUMMARY|0x", line))[:3000]


def main() -> int:
    os.makedirs(FOLDER, exist_ok=True)
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, PRELOAD, []])
    options = parser.parse_args()
    targets = options.targets or [*TARGETS, PRELOAD]
    workers = os.cpu_count() or 1
    seconds = max(1, int(options.minutes * 60 * workers / len(targets)))
    print(f"{len(targets)} targets, {seconds} s each, {workers} at a time\n", flush=True)
    print(f"{'target':16}{'executions':>12}{'covered':>10}{'kept':>8}", flush=True)
    findings = []
    with ThreadPoolExecutor(workers) as pool:
        for ran in pool.map(partial(run, seconds, options.seed), targets):
            word = "  FINDING" if ran.finding else ""
            print(f"{ran.target:16}{ran.executions:>12}{ran.covered:>10}{ran.kept:>8}{word}", flush=True)
            findings += [ran] if ran.finding else []
    for ran in findings:
        print(f"\n{ran.target}: see {FOLDER}/{ran.target}.found-* and .log\n{ran.finding}")
    print(f"\n{len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
