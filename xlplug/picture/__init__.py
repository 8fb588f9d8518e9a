# SPDX-License-Identifier: LGPL-2.1-only
"""Address maps of a domain: built from a plan and a host, drawn for a terminal, as SVG and as HTML.  Pure."""
