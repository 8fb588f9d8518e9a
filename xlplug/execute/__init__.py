# SPDX-License-Identifier: LGPL-2.1-only
"""Carrying out steps, taking them back, and the journal of both."""
