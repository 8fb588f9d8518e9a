# SPDX-License-Identifier: LGPL-2.1-only
"""Legacy I/O rights for Xen device models, granted by the toolstack.

Data:      errors addr rangeset bdf grant host xlcfg pcispec domcfg firmware
Planning:  vga pci_assign plan
Execution: apply journal memxen
Bindings:  recording sysfs udev xen/
Edge:      argv cli __main__
"""

__version__ = "0.1.0"
