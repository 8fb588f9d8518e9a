# SPDX-License-Identifier: LGPL-2.1-only
"""The daemon that makes grants for domains that other toolstacks create."""
