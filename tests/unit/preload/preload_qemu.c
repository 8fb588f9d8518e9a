/* SPDX-License-Identifier: LGPL-2.1-only */
/*
 * Stands in for QEMU: makes the calls that it reads from standard input, and says what they returned.
 *
 *     populate DOMID ORDER FLAGS GFN...	numbers in hexadecimal; "-" for a null list
 *     iomem DOMID MFN NR ALLOW
 *     race DOMID FIRST NR			eight threads ask for the same pages, each for one after the other
 *     preload					says what a child would find in LD_PRELOAD
 */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int xc_domain_populate_physmap_exact(void *, uint32_t, unsigned long, unsigned int, unsigned int, unsigned long *);
int xc_domain_iomem_permission(void *, uint32_t, unsigned long, unsigned long, uint8_t);
int fake_handles(void);
int fake_calls(void);

#define XCH ((void *)0xabc)
#define MARK 123 /* in errno before each call */
#define THREADS 8

static unsigned long race_domid, race_first, race_nr;

static void *racer(void *unused)
{
	for (unsigned long i = 0; i < race_nr; i++) {
		unsigned long gfn = race_first + i;

		xc_domain_populate_physmap_exact(XCH, (uint32_t)race_domid, 1, 0, 0, &gfn);
	}
	return unused;
}

static unsigned long next_number(void)
{
	const char *word = strtok(NULL, " \n");

	return word ? strtoul(word, NULL, 16) : 0;
}

int main(void)
{
	static char line[1 << 16];
	static unsigned long gfns[1 << 13];

	while (fgets(line, sizeof(line), stdin)) {
		const char *what = strtok(line, " \n");
		int result;

		errno = MARK;
		if (!strcmp(what, "populate")) {
			uint32_t domid = (uint32_t)next_number();
			unsigned int order = (unsigned int)next_number(), flags = (unsigned int)next_number();
			unsigned long nr = 0, *list = gfns;
			char *word;

			while ((word = strtok(NULL, " \n"))) {
				if (*word == '-')
					list = NULL;
				gfns[nr++] = strtoul(word, NULL, 16);
			}
			errno = MARK;
			result = xc_domain_populate_physmap_exact(XCH, domid, nr, order, flags, list);
			printf("%d %d\n", result, errno);
		} else if (!strcmp(what, "iomem")) {
			uint32_t domid = (uint32_t)next_number();
			unsigned long mfn = next_number(), nr = next_number();
			uint8_t allow = (uint8_t)next_number();

			errno = MARK;
			result = xc_domain_iomem_permission(XCH, domid, mfn, nr, allow);
			printf("%d %d\n", result, errno);
		} else if (!strcmp(what, "race")) {
			pthread_t threads[THREADS];

			race_domid = next_number();
			race_first = next_number();
			race_nr = next_number();
			for (int i = 0; i < THREADS; i++)
				pthread_create(&threads[i], NULL, racer, NULL);
			for (int i = 0; i < THREADS; i++)
				pthread_join(threads[i], NULL);
			printf("%d\n", fake_calls());
		} else {
			const char *value = getenv("LD_PRELOAD");

			printf("LD_PRELOAD=%s\n", value ? value : "(none)");
		}
	}
	printf("%d handles\n", fake_handles());
	return 0;
}
