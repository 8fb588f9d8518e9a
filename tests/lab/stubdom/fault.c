/* SPDX-License-Identifier: LGPL-2.1-only */
/*
 * For LD_PRELOAD, below libxenctrl: one hypercall that changes a domain's rights fails, or something happens at it.
 * Counted are the domctls that a grant or a revoke consists of.  Sources: xen/include/public/domctl.h, sys/privcmd.h.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { DOMCTL = 36, IOMEM_PERMISSION = 20, IOPORT_PERMISSION = 21, MEMORY_MAPPING = 39, IOPORT_MAPPING = 40 };
enum { FIRST_RESERVED = 0x7ff0 }; /* xlplug asks about this domain to see whether the library fits */
enum { NOTHING, FAIL, KILL_BEFORE, KILL_AFTER, RUN_BEFORE, RUN_AFTER };

struct hypercall {
	uint64_t op;
	uint64_t arg[5];
};
struct domctl {
	uint32_t cmd;
	uint32_t version;
	uint16_t domid;
};
#define HYPERCALL _IOC(_IOC_NONE, 'P', 0, sizeof(struct hypercall))

static int calls, at = -1, action, code;
static char command[512];

void fault_arm(int number, int what, int error, const char *words);
int fault_calls(void);

/* At call ``number`` (0 is the next): fail with errno ``error``, kill this process, or run a shell command. */
void fault_arm(int number, int what, int error, const char *words)
{
	size_t i = 0;

	calls = 0;
	at = number;
	action = what;
	code = error;
	for (; words[i] && i < sizeof(command) - 1; i++)
		command[i] = words[i];
	command[i] = 0;
}

int fault_calls(void)
{
	return calls;
}

static int counted(unsigned long request, const struct hypercall *call)
{
	const struct domctl *domctl;

	if (request != HYPERCALL || call->op != DOMCTL)
		return 0;
	domctl = (const struct domctl *)(uintptr_t)call->arg[0];
	switch (domctl->cmd) {
	case IOMEM_PERMISSION:
	case IOPORT_PERMISSION:
	case MEMORY_MAPPING:
	case IOPORT_MAPPING:
		return domctl->domid < FIRST_RESERVED;
	}
	return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list list;
	void *argument;
	int here, result;

	va_start(list, request);
	argument = va_arg(list, void *);
	va_end(list);
	if (!counted(request, argument))
		return syscall(SYS_ioctl, fd, request, argument);
	here = calls++ == at;
	if (here && action == FAIL) {
		errno = code;
		return -1;
	}
	if (here && action == KILL_BEFORE)
		kill(getpid(), SIGKILL);
	if (here && action == RUN_BEFORE && system(command) == -1)
		abort();
	result = syscall(SYS_ioctl, fd, request, argument);
	if (here && action == KILL_AFTER)
		kill(getpid(), SIGKILL);
	if (here && action == RUN_AFTER && system(command) == -1)
		abort();
	return result;
}
