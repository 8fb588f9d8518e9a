/* SPDX-License-Identifier: LGPL-2.1-only */
/*
 * The real libxlutil as an oracle.
 *
 * stdin: records of "<kind> <length>\n<bytes>", kind c (configuration) or p (PCI spec), or t (time the parse of a
 * configuration).  stdout: one line a record.  Each record runs in a child, because libxlutil aborts on some input.
 *   c: "error LINE" or "ok" followed by name=value, a string as " and hex, a list in brackets, and :long or :- for a scalar
 *   p: "error" or "ok domain bus dev func vdevfn vfunc_mask permissive seize msitranslate power_mgmt rdm_policy name"
 *   t: nanoseconds for one parse, the best of many
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <libxl.h>
#include <libxlutil.h>

/* Not in the public header; the head of two structs of tools/libs/util/libxlu_internal.h, the same from 4.14 on. */
struct setting { struct setting *next; char *name; XLU_ConfigValue *value; };
struct config { struct setting *settings; };

static void hex(const char *s)
{
    putchar('"');
    for (; *s; s++)
        printf("%02x", (unsigned char)*s);
}

static void show(const XLU_Config *cfg, XLU_ConfigValue *v)
{
    char *string;
    XLU_ConfigList *list;
    XLU_ConfigValue *item;

    if (xlu_cfg_value_type(v) == XLU_STRING) {
        xlu_cfg_value_get_string(cfg, v, &string, 1);
        hex(string);
        return;
    }
    xlu_cfg_value_get_list(cfg, v, &list, 1);
    putchar('[');
    for (int i = 0; (item = xlu_cfg_get_listitem2(list, i)); i++)
        show(cfg, item);
    putchar(']');
}

static void config(char *data, int length)
{
    char *text = NULL;
    size_t size = 0;
    FILE *report = open_memstream(&text, &size);
    XLU_Config *cfg = xlu_cfg_init(report, "f");
    int r = xlu_cfg_readdata(cfg, data, length);

    fflush(report);
    if (r) {
        int line = 0;
        if (text && sscanf(text, "f:%d:", &line) != 1)
            line = 0;
        printf("error %d", line);
        return;
    }
    printf("ok");
    for (struct setting *s = ((struct config *)cfg)->settings; s; s = s->next) {
        bool hidden = false;
        for (struct setting *t = ((struct config *)cfg)->settings; t != s; t = t->next)
            hidden |= !strcmp(t->name, s->name);
        if (hidden)
            continue;
        printf(" %s=", s->name);
        show(cfg, s->value);
        if (xlu_cfg_value_type(s->value) == XLU_STRING) {
            long l;
            if (xlu_cfg_get_long(cfg, s->name, &l, 1))
                printf(":-");
            else
                printf(":%ld", l);
        }
    }
}

static void pci(char *data)
{
    XLU_Config *cfg = xlu_cfg_init(fopen("/dev/null", "w"), "f");
    libxl_device_pci pci;

    libxl_device_pci_init(&pci);
    if (xlu_pci_parse_spec_string(cfg, &pci, data)) {
        printf("error");
        return;
    }
    printf("ok %x %x %x %x %x %x %d %d %d %d %d %s", pci.domain, pci.bus, pci.dev, pci.func, pci.vdevfn, pci.vfunc_mask,
           pci.permissive, pci.seize, pci.msitranslate, pci.power_mgmt, pci.rdm_policy, pci.name ? pci.name : "-");
}

static void timing(char *data, int length)
{
    long long best = -1;

    for (int i = 0; i < (length > 100000 ? 3 : 400); i++) {
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        XLU_Config *cfg = xlu_cfg_init(stderr, "f");
        xlu_cfg_readdata(cfg, data, length);
        xlu_cfg_destroy(cfg);
        clock_gettime(CLOCK_MONOTONIC, &b);
        long long took = (b.tv_sec - a.tv_sec) * 1000000000LL + b.tv_nsec - a.tv_nsec;
        if (best < 0 || took < best)
            best = took;
    }
    printf("%lld", best);
}

int main(void)
{
    char kind;
    int length;

    while (scanf(" %c %d", &kind, &length) == 2) {
        char *data = calloc(1, length + 1);
        getchar();
        if (fread(data, 1, length, stdin) != (size_t)length)
            return 2;
        fflush(stdout);
        pid_t child = fork();
        if (!child) {
            freopen("/dev/null", "w", stderr);
            if (kind == 'c')
                config(data, length);
            else if (kind == 'p')
                pci(data);
            else
                timing(data, length);
            fflush(stdout);
            _exit(0);
        }
        int status;
        waitpid(child, &status, 0);
        if (status)
            printf("abort");
        putchar('\n');
        fflush(stdout);
        free(data);
    }
    return 0;
}
