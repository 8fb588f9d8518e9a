/* SPDX-License-Identifier: LGPL-2.1-only */
/*
 * libxlplug-preload.so - lets an unmodified QEMU find done what xlplug has done before it started
 *
 * SYNOPSIS
 *     LD_PRELOAD=/usr/local/lib/xlplug/libxlplug-preload.so qemu-system-i386 -xen-domid 7 ...
 *
 * DESCRIPTION
 *     Two functions of libxenctrl are interposed, and no others:
 *
 *     xc_domain_populate_physmap_exact
 *         returns 0 without a call if every page asked for was published as populated, and this process asks for each of
 *         them for the first time.  Xen would give a page that is there already a second time and lose the first one.
 *     xc_domain_iomem_permission
 *         returns 0 without a call if access is asked for, and the whole range was published as granted.  Xen refuses this
 *         call of every stubdomain, also for what the guest holds, and QEMU then leaves Intel's OpRegion out.
 *
 *     Anything else, and any doubt, goes to the real function: same arguments, its result, its errno.  Doubt is a xenstore
 *     that cannot be read, a text that is not as below to its last character, a flag that is set, a number that wraps.
 *
 *     A page counts once.  What was published tells of the time before this process; once QEMU has asked for a page, what has
 *     become of it is QEMU's and the guest's to know: they may have moved it to a BAR or released it.  Whoever asks again
 *     gets the real call, as without this library: a page may then be lost, where a false "it is there" would end QEMU.  For
 *     the same reason pages of a call that was passed on have been asked for, too.
 *
 * FILES
 *     xlplug/DOMID/populated, xlplug/DOMID/iomem
 *         In xenstore, below the home of the domain that this process runs in (/local/domain/0 in dom0), read anew at each
 *         call.  DOMID is the guest's, decimal.  Inclusive ranges of frames, hexadecimal, joined by commas: f0000-f0fff,a0-a0.
 *         xlplug writes them (xlplug/execute/preload_nodes.py); a stubdomain can only read them.
 *
 * ENVIRONMENT
 *     LD_PRELOAD
 *         This library takes itself out of it, once it is in a process that has libxenctrl: what QEMU starts does not
 *         inherit it.  A shell script that starts QEMU in the end passes it on.
 *     XLPLUG_PRELOAD_TRACE
 *         If set to anything, each call is told to standard error, in one line.
 *
 * NOTES
 *     Nothing of Xen is needed to build it, and it links to nothing but the C library.  libxenstore is the one that the
 *     process itself uses: a device model always has it, and so there is no name of a file to guess (libxenstore.so.4, .so.3.0
 *     with Xen 4.14 and 4.15), no second copy, and nothing to open after QEMU has gone into a chroot.
 */
#define _GNU_SOURCE /* RTLD_NEXT, RTLD_DEFAULT, dprintf */

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_NAME "libxlplug-preload.so"

/* The same from Xen 4.14 on; a test compares them with the installed headers.  Frame numbers are xen_pfn_t there. */
struct xc_interface_core;
struct xs_handle;
typedef int populate_fn(struct xc_interface_core *xch, uint32_t domid, unsigned long nr_extents, unsigned int extent_order,
			unsigned int mem_flags, unsigned long *extent_start);
typedef int iomem_fn(struct xc_interface_core *xch, uint32_t domid, unsigned long first_mfn, unsigned long nr_mfns,
		     uint8_t allow_access);
typedef struct xs_handle *xs_open_fn(unsigned long flags);
typedef void xs_close_fn(struct xs_handle *xsh);
typedef void *xs_read_fn(struct xs_handle *xsh, uint32_t transaction, const char *path, unsigned int *len);

#define EXPORT __attribute__((visibility("default")))
EXPORT populate_fn xc_domain_populate_physmap_exact;
EXPORT iomem_fn xc_domain_iomem_permission;

/* Frames, both inclusive, as they are published. */
struct range {
	unsigned long first, last;
};

/* The most that fit into a xenstore value, which has at most 4096 bytes (XENSTORE_PAYLOAD_MAX): "0-0," is the shortest. */
#define MAX_RANGES 1025
/* A run of frames for each of QEMU's RAM blocks, and it has a dozen.  When there are more, the rest is passed on. */
#define MAX_ASKED 256
/* 1 GiB; Xen itself has no larger extents. */
#define MAX_ORDER 18

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* All below is guarded by the lock. */
static struct range told[MAX_RANGES];
static struct {
	uint32_t domid;
	struct range gfns;
} asked[MAX_ASKED];
static size_t nr_asked;

/* A hexadecimal number at *text, which moves behind it; false if there is none, or it is too large. */
static bool parse_number(const char **text, const char *end, unsigned long *number)
{
	static const char digits[] = "0123456789abcdef";
	const char *start = *text;
	unsigned long value = 0;

	for (; *text < end; ++*text) {
		const char *digit = memchr(digits, **text, 16);

		if (!digit)
			break;
		if (value > ULONG_MAX >> 4)
			return false;
		value = value << 4 | (unsigned long)(digit - digits);
	}
	*number = value;
	return *text > start;
}

/* The ranges of a text go to `told`; their number, 0 for a text that is not wholly as it should be. */
static size_t parse_ranges(const char *text, size_t length)
{
	const char *end = text + length;

	for (size_t nr = 0; nr < MAX_RANGES;) {
		struct range *range = &told[nr++];

		if (!parse_number(&text, end, &range->first) || text == end || *text++ != '-')
			return 0;
		if (!parse_number(&text, end, &range->last) || range->last < range->first)
			return 0;
		if (text == end)
			return nr;
		if (*text++ != ',')
			return 0;
	}
	return 0;
}

/* What is published now goes to `told`; the number of ranges, 0 also for whatever goes wrong. */
static size_t read_published(uint32_t domid, const char *what)
{
	xs_open_fn *xs_open = (xs_open_fn *)dlsym(RTLD_DEFAULT, "xs_open");
	xs_read_fn *xs_read = (xs_read_fn *)dlsym(RTLD_DEFAULT, "xs_read");
	xs_close_fn *xs_close = (xs_close_fn *)dlsym(RTLD_DEFAULT, "xs_close");
	struct xs_handle *store;
	unsigned int length = 0;
	char path[64];
	char *text;
	size_t nr;

	if (!xs_open || !xs_read || !xs_close)
		return 0;
	/* Relative: to the home of our own domain, whose number we need not know. */
	snprintf(path, sizeof(path), "xlplug/%u/%s", (unsigned int)domid, what);
	/* QEMU's own handle is not ours to use; one of our own lives only for this call, so that no fork inherits it. */
	store = xs_open(0);
	if (!store)
		return 0;
	text = xs_read(store, 0, path, &length);
	nr = text ? parse_ranges(text, length) : 0;
	free(text);
	xs_close(store);
	return nr;
}

/* Whether all of `wanted` is in the first `nr` of `told`, which may touch, overlap and have any order. */
static bool is_told(struct range wanted, size_t nr)
{
	for (;;) {
		size_t i = 0;

		while (i < nr && (told[i].first > wanted.first || told[i].last < wanted.first))
			i++;
		if (i == nr)
			return false;
		if (told[i].last >= wanted.last)
			return true;
		wanted.first = told[i].last + 1; /* and now the rest */
	}
}

/* Note that a run was asked for; false if a part of it was before, or there is no room to note it. */
static bool ask(uint32_t domid, struct range run)
{
	bool first = true;

	for (size_t i = 0; i < nr_asked; i++) {
		const struct range *other = &asked[i].gfns;

		if (asked[i].domid != domid || other->first > run.last || run.first > other->last)
			continue;
		if (other->first <= run.first && run.last <= other->last)
			return false; /* nothing new to note */
		first = false;
	}
	if (nr_asked == MAX_ASKED)
		return false;
	asked[nr_asked].domid = domid;
	asked[nr_asked++].gfns = run;
	return first;
}

/* Whether every page of these extents was published, and is asked for the first time; from now on all of them have been. */
static bool is_populated(uint32_t domid, unsigned long nr_extents, unsigned int order, unsigned int flags,
			 const unsigned long *extents)
{
	bool all = nr_extents > 0 && flags == 0;
	unsigned long more;
	size_t nr;

	if (!extents || order > MAX_ORDER)
		return false;
	more = (1UL << order) - 1;
	nr = read_published(domid, "populated");
	for (unsigned long i = 0; i < nr_extents; i++) {
		struct range run = {extents[i], extents[i] + more};

		if (run.last < run.first) {
			all = false;
			continue;
		}
		while (i + 1 < nr_extents && extents[i + 1] == run.last + 1 && run.last + 1 + more > run.last)
			run.last = extents[++i] + more;
		if (!ask(domid, run) || !is_told(run, nr))
			all = false;
	}
	return all;
}

/* Whether the whole range was published as granted. */
static bool is_granted(uint32_t domid, unsigned long first, unsigned long nr_mfns, uint8_t allow)
{
	struct range wanted = {first, first + nr_mfns - 1};

	if (!allow || nr_mfns == 0 || wanted.last < first)
		return false;
	return is_told(wanted, read_published(domid, "iomem"));
}

static void trace(const char *what, uint32_t domid, unsigned long first, unsigned long nr, unsigned int order, bool done)
{
	const char *wanted = getenv("XLPLUG_PRELOAD_TRACE");

	if (wanted && *wanted)
		dprintf(STDERR_FILENO, "xlplug-preload: %s domid=%u first=%#lx nr=%#lx order=%u: %s\n", what,
			(unsigned int)domid, first, nr, order, done ? "done before" : "passed on");
}

int xc_domain_populate_physmap_exact(struct xc_interface_core *xch, uint32_t domid, unsigned long nr_extents,
				     unsigned int extent_order, unsigned int mem_flags, unsigned long *extent_start)
{
	int error = errno;
	populate_fn *real = (populate_fn *)dlsym(RTLD_NEXT, "xc_domain_populate_physmap_exact");
	bool done;

	pthread_mutex_lock(&lock);
	done = is_populated(domid, nr_extents, extent_order, mem_flags, extent_start);
	pthread_mutex_unlock(&lock);
	trace("populate", domid, extent_start && nr_extents ? *extent_start : 0, nr_extents, extent_order, done);
	errno = error;
	if (done)
		return 0;
	if (real)
		return real(xch, domid, nr_extents, extent_order, mem_flags, extent_start);
	errno = ENOSYS;
	return -1;
}

int xc_domain_iomem_permission(struct xc_interface_core *xch, uint32_t domid, unsigned long first_mfn,
			       unsigned long nr_mfns, uint8_t allow_access)
{
	int error = errno;
	iomem_fn *real = (iomem_fn *)dlsym(RTLD_NEXT, "xc_domain_iomem_permission");
	bool done;

	pthread_mutex_lock(&lock);
	done = is_granted(domid, first_mfn, nr_mfns, allow_access);
	pthread_mutex_unlock(&lock);
	trace(allow_access ? "iomem" : "no iomem", domid, first_mfn, nr_mfns, 0, done);
	errno = error;
	if (done)
		return 0;
	if (real)
		return real(xch, domid, first_mfn, nr_mfns, allow_access);
	errno = ENOSYS;
	return -1;
}

/* Whether a path, given with its length, is that of this library. */
static bool is_ours(const char *path, size_t length)
{
	const size_t ours = strlen(FILE_NAME);

	return length >= ours && memcmp(path + length - ours, FILE_NAME, ours) == 0 &&
	       (length == ours || path[length - ours - 1] == '/');
}

/* Take this library out of LD_PRELOAD, and leave what else is there: words between colons and spaces, see ld.so(8). */
__attribute__((constructor)) static void go_no_further(void)
{
	const char *word = getenv("LD_PRELOAD");
	char *rest, *end;

	if (!word || !dlsym(RTLD_NEXT, "xc_domain_populate_physmap_exact"))
		return; /* not the device model yet: a script before it */
	rest = end = malloc(strlen(word) + 1);
	if (!rest)
		return;
	while (*(word += strspn(word, " :"))) {
		size_t length = strcspn(word, " :");

		if (!is_ours(word, length)) {
			if (end != rest)
				*end++ = ':';
			memcpy(end, word, length);
			end += length;
		}
		word += length;
	}
	*end = '\0';
	if (end == rest)
		unsetenv("LD_PRELOAD");
	else
		setenv("LD_PRELOAD", rest, 1);
	free(rest);
}
