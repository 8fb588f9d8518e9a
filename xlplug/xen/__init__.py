# SPDX-License-Identifier: LGPL-2.1-only
"""Bindings to Xen's C libraries: the only importer of cffi, and no policy."""
