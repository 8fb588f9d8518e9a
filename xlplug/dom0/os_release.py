# SPDX-License-Identifier: LGPL-2.1-only
"""Which distribution this dom0 is: os-release(5)."""

__all__ = ["OS_RELEASE", "distribution"]

OS_RELEASE = "/etc/os-release"


def distribution(path: str = OS_RELEASE) -> str:
    """The ID, such as "debian" or "qubes"; "" where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return next((line[3:].strip().strip("'\"") for line in file if line.startswith("ID=")), "")
    except OSError:
        return ""
