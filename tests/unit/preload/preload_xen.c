/* SPDX-License-Identifier: LGPL-2.1-only */
/* Stands in for libxenctrl and libxenstore: says what it is asked, answers $FAKE_ERRNO, and has xenstore in $FAKE_STORE. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static int handles;
static int calls;

static int answer(void)
{
	const char *number = getenv("FAKE_ERRNO");

	__atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
	if (!number)
		return 0;
	errno = atoi(number);
	return -1;
}

int xc_domain_populate_physmap_exact(void *xch, uint32_t domid, unsigned long nr, unsigned int order, unsigned int flags,
				     unsigned long *gfns)
{
	if (!getenv("FAKE_QUIET")) {
		printf("real populate %p %u %lu %u %u", xch, domid, nr, order, flags);
		for (unsigned long i = 0; gfns && i < nr; i++)
			printf(" %lx", gfns[i]);
		printf(" %d\n", errno);
	}
	return answer();
}

int xc_domain_iomem_permission(void *xch, uint32_t domid, unsigned long mfn, unsigned long nr, uint8_t allow)
{
	printf("real iomem %p %u %lx %lx %u %d\n", xch, domid, mfn, nr, allow, errno);
	return answer();
}

void *xs_open(unsigned long flags)
{
	errno = ECONNREFUSED;
	if (flags || !getenv("FAKE_STORE"))
		return NULL;
	handles++;
	return &handles;
}

void xs_close(void *handle)
{
	errno = EBADF;
	if (handle == &handles)
		handles--;
}

void *xs_read(void *handle, uint32_t transaction, const char *path, unsigned int *len)
{
	char name[512];
	char *text = malloc(8192);
	FILE *file;

	snprintf(name, sizeof(name), "%s/%s", getenv("FAKE_STORE"), path);
	file = handle == &handles && transaction == 0 ? fopen(name, "r") : NULL;
	if (!file) {
		free(text);
		errno = ENOENT;
		return NULL;
	}
	*len = (unsigned int)fread(text, 1, 8191, file);
	text[*len] = '\0';
	fclose(file);
	errno = EAGAIN;
	return text;
}

int fake_handles(void)
{
	return handles;
}

int fake_calls(void)
{
	return calls;
}
