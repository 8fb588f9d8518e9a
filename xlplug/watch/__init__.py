# SPDX-License-Identifier: LGPL-2.1-only
"""The daemon that grants to domains made by other toolstacks."""
