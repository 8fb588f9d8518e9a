# SPDX-License-Identifier: LGPL-2.1-only
"""Legacy I/O rights for Xen device models, granted by the toolstack.

The policy stands in the open: what is granted, to whom, and why.  The machine is in folders, one a floor.  A module
imports from its own floor and from those above it in this list (tests/unit/test_layers.py compares the two):

    model     values: steps, ranges, addresses, the host, problems, errors, protocols
    config    a domain's configuration: three readers, one DomainConfig
    policy    which grants a domain needs: vga.py vga_owner.py igd.py registers.py displays.py ports.py pci_assign.py
              hide_at_boot.py delegation.py physmap.py obstacles.py plan.py
    picture   address maps for a terminal, as SVG and as HTML
    xen       Xen's libraries, and the hypervisor in memory
    dom0      what is read from this dom0: devices, firmware, domains, configurations
    execute   carrying out steps, taking them back, the journal
    delegate  whose BARs a device model must map, and a device model on stable libraries
    hook      what runs for xl create: front end, device model wrapper, installation
    abi       which ABI-unstable functions a device model imports
    audit     what would become of recorded domains, host by host
    watch     the daemon that grants to domains made by other toolstacks
    doctor    what must be true of a dom0, and whether it is
    commands  one file a command; click; the way without click
"""

__version__ = "0.1.0"
