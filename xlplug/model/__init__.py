# SPDX-License-Identifier: LGPL-2.1-only
"""Values: steps, ranges, addresses, the host, problems and errors, and the protocols that execution needs.  Pure."""
