# SPDX-License-Identifier: LGPL-2.1-only
"""What would become of any number of recorded domains, without a Xen: see ``xlplug audit``."""
