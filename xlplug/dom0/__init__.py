# SPDX-License-Identifier: LGPL-2.1-only
"""What is read from this dom0: PCI functions, firmware, domains, running xl commands, configurations."""
