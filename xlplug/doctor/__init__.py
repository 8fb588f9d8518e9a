# SPDX-License-Identifier: LGPL-2.1-only
"""What must be true of a dom0 for xlplug to work, and whether it is."""
