# SPDX-License-Identifier: LGPL-2.1-only
"""A domain's configuration: xl's language, PCI specs, xl's command lines; three readers, one `DomainConfig`.  Pure."""
