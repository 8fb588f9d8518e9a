# SPDX-License-Identifier: LGPL-2.1-only
"""How many generated cases: a few among the units, all of them in ``make properties``, which CI runs."""

import os

__all__ = ["examples"]


def examples(few: int, many: int) -> int:
    """``many`` where the environment has EXAMPLES; the ``few`` are the first of them."""
    return many if os.environ.get("EXAMPLES") else few
