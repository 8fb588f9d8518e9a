# SPDX-License-Identifier: LGPL-2.1-only
"""Which functions of ABI-unstable libraries a device model imports."""
