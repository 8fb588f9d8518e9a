# SPDX-License-Identifier: LGPL-2.1-only
"""One file a command; click; and the way without click for the commands that must start fast."""
