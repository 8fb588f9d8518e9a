# SPDX-License-Identifier: LGPL-2.1-only
"""Legacy I/O rights for Xen device models, granted by the toolstack.

The policy stands in the open: what is granted, to whom, and why.  The machine is in folders, one a floor.  A module
imports from its own floor and from those above it in this list (tests/unit/test_layers.py compares the two):

    model     values: steps, ranges, addresses, the host, problems and errors, the protocols that execution needs
    config    a domain's configuration: xl's language, PCI specs, xl's command lines; three readers, one DomainConfig
    policy    vga.py igd.py pci_assign.py physmap.py plan.py: which grants a domain needs; pure, like the two above
    xen       libxenctrl, libxenstore, libxendevicemodel, and the hypervisor in memory
    dom0      what is read from this dom0: PCI functions, firmware, domains, running xl commands, configurations
    execute   carrying out steps, taking them back, the journal
    hook      what runs for ``xl create``: the front end's Python half, the device model wrapper, their installation
    abi       which ABI-unstable functions a device model imports
    watch     the daemon that grants to domains made by other toolstacks
    doctor    what must be true of a dom0, and whether it is
    commands  one file a command; click; the way without click
"""

__version__ = "0.1.0"
