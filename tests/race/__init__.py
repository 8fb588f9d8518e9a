# SPDX-License-Identifier: LGPL-2.1-only
"""Real processes that grant and revoke at the same time, on one hypervisor in memory that they share through a socket."""
