# SPDX-License-Identifier: LGPL-2.1-only
"""How many examples: EXAMPLES of them, new ones each time; without it a hundred, always the same.  CI has the same each time.

SHRINK=no stops at the first counter-example, however large.
"""

import os

from hypothesis import HealthCheck, Phase, settings

_examples = int(os.environ.get("EXAMPLES", "0"))
settings.register_profile(
    "xlplug",
    max_examples=_examples or 100,
    derandomize=not _examples or os.environ.get("CI") == "true",
    database=None,
    deadline=None,
    print_blob=True,
    phases=[phase for phase in Phase if phase is not Phase.shrink or os.environ.get("SHRINK") != "no"],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
settings.load_profile("xlplug")
