/* SPDX-License-Identifier: LGPL-2.1-only */
int xentoolcore_restrict_all(domid_t domid);
