# SPDX-License-Identifier: LGPL-2.1-only
"""An Intel display for the lab: see machine.py."""
