# SPDX-License-Identifier: LGPL-2.1-only
"""BARs belong to the device model: what a guest's BARs need, who serves them, and a device model that does.

`record` says what a device model has to map, `verify` compares that with Xen, and the rest is a reference delegate: a process
that serves the config space and the BARs of PCI functions through Xen's stable libraries alone.  See docs/delegation.md.
"""
