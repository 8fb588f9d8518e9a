# SPDX-License-Identifier: LGPL-2.1-only
"""xl's command lines: a table, and xl's own code (its getopt calls, compiled here) as the oracle."""

import getopt
import itertools
import random
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.abi.oracle import require
from xlplug.config import xl_command_line
from xlplug.config.xl_command_line import Create, Restore, is_create, is_receive, parse_create, parse_restore, parse_xl

# What main(), main_create(), main_restore() and main_migrate_receive() of tools/xl do to their words, stable-4.14 to 4.22.
# main() has called getopt with "+", and glibc keeps to it when optind is set to 1 and not 0: options after the first word
# are words.
ORACLE = r"""
#define _GNU_SOURCE
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
static int quit(void) { puts("xl"); return 0; }
static int xl(int argc, char **argv) {
    int opt, n = 0; char *config = 0;
    while (getopt(argc, argv, "+vftTN") >= 0);
    argv += optind; argc -= optind; optind = 1; opterr = 0;
    if (!strcmp(argv[0], "restore")) {
        static const struct option opts[] = {{"vncviewer",0,0,'V'},{"vncviewer-autopass",0,0,'A'},{"help",0,0,'h'},{0}};
        while ((opt = getopt_long(argc, argv, "hFcpdeVA", opts, 0)) != -1) if (opt == '?' || opt == 'h') return quit();
        if (argc - optind < 1 || argc - optind > 2) return quit();
        for (; optind < argc; optind++) printf("<%s>", argv[optind]);
        putchar('\n');
        return 0;
    }
    if (!strcmp(argv[0], "migrate-receive")) {
        static const struct option opts[] = {{"colo",0,0,256},{"coloft-script",1,0,512},{"userspace-colo-proxy",0,0,768},
            {"help",0,0,'h'},{0}};
        while ((opt = getopt_long(argc, argv, "hFedrp", opts, 0)) != -1) if (opt == '?' || opt == 'h') return quit();
        if (argc - optind != 0) return quit();
        return puts("receives") < 0;
    }
    static const struct option opts[] = {{"defconfig",1,0,'f'},{"dryrun",0,0,'n'},
        {"ignore-global-affinity-masks",0,0,'i'},{"quiet",0,0,'q'},{"vncviewer",0,0,'V'},
        {"vncviewer-autopass",0,0,'A'},{"help",0,0,'h'},{0}};
    if (argv[1] && argv[1][0] != '-' && !strchr(argv[1], '=')) { config = argv[1]; argc--; argv++; }
    while ((opt = getopt_long(argc, argv, "hAFVcdef:inpq", opts, 0)) != -1) {
        if (opt == '?' || opt == 'h') return quit();
        if (opt == 'f') config = optarg;
        if (opt == 'n') n = 1;
    }
    char extra[4096] = "";
    for (; optind < argc; optind++) {
        if (strchr(argv[optind], '=')) { strcat(extra, "<"); strcat(extra, argv[optind]); strcat(extra, ">"); }
        else if (!config) config = argv[optind];
        else return quit();
    }
    if (!config) return quit();
    printf("<%s>%s%s\n", config, extra, n ? " dry" : "");
    return 0;
}
/* A command line is the number of its words, and the words, each with a NUL behind it.  getopt begins at the beginning for
   each, in a process of its own. */
int main(void) {
    static char text[1 << 20];
    char *argv[16], *end = text + fread(text, 1, sizeof text - 1, stdin);
    for (char *p = text; p < end;) {
        int argc = atoi(p);
        for (int i = 0; i <= argc; i++) argv[i] = p += strlen(p) + 1;
        argv[argc] = 0;
        if (!fork()) exit(xl(argc, argv));
        if (wait(0) < 0) return 1;
    }
    return 0;
}
"""


@cache
def oracle() -> str:
    if shutil.which("gcc") is None:
        require("abi", "gcc is not installed")
    folder = Path(mkdtemp())
    (folder / "oracle.c").write_text(ORACLE)
    subprocess.run(["gcc", "-w", "-o", folder / "oracle", folder / "oracle.c"], check=True)
    return str(folder / "oracle")


def answers(verb: str, vocabulary: list[str]) -> Iterator[tuple[list[str], str]]:
    """Every line of up to three of these words, and what xl's own code makes of it."""
    lines = [list(words) for length in range(4) for words in itertools.product(vocabulary, repeat=length)]
    asked = "".join(f"{2 + len(words)}\0xl\0" + "".join(f"{word}\0" for word in (verb, *words)) for words in lines)
    done = subprocess.run([oracle()], input=asked, capture_output=True, text=True, check=True)
    return zip(lines, done.stdout.splitlines(), strict=True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["g.cfg"], Create("g.cfg")),
        (["g.cfg", "-p", "-c", "-V", "memory=64", 'name="x y"'], Create("g.cfg", ("memory=64", 'name="x y"'))),
        (["-f", "g.cfg"], Create("g.cfg")),
        (["-pfg.cfg"], Create("g.cfg")),
        (["--defconfig=g.cfg", "-q"], Create("g.cfg")),
        (["--def", "g.cfg"], Create("g.cfg")),
        (["a.cfg", "-f", "b.cfg"], Create("b.cfg")),
        (["-q", "k=v", "g.cfg"], Create("g.cfg", ("k=v",))),
        (["-n", "g.cfg"], Create("g.cfg", (), dry_run=True)),
        (["g.cfg", "--dryrun"], Create("g.cfg", (), dry_run=True)),
        (["--", "-odd.cfg"], Create("-odd.cfg")),
        ([""], Create("")),
        (["--vncviewer", "g.cfg"], Create("g.cfg")),
        ([], None),
        (["k=v"], None),
        (["-f"], None),
        (["-z", "g.cfg"], None),
        (["--quiet=1", "g.cfg"], None),
        (["g.cfg", "-h"], None),
        (["--help"], None),
        (["a.cfg", "b.cfg"], None),
        (["g.cfg", "k=v", "-p"], None),  # xl prints its help: options come before k=v words
    ],
)
def test_create(words: list[str], expected: Create | None) -> None:
    assert parse_create(words) == expected


def test_create_is_read_as_xl_reads_it() -> None:
    for words, answer in answers("create", ["g.cfg", "k=v", "-p", "-f", "-n", "--", "-fx", "--quiet", "--de=y", "-z"]):
        got = parse_create(words)
        text = "xl"
        if got is not None:
            text = f"<{got.path}>" + "".join(f"<{word}>" for word in got.extra) + (" dry" if got.dry_run else "")
        assert text == answer, words


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["save"], Restore("save")),
        (["g.cfg", "save"], Restore("save", "g.cfg")),
        (["-pFe", "--vncviewer", "g.cfg", "save"], Restore("save", "g.cfg")),
        ([], None),
        (["a", "b", "c"], None),
        (["-h", "save"], None),
        (["-n", "save"], None),
        (["save", "-p", "x"], None),
    ],
)
def test_restore(words: list[str], expected: Restore | None) -> None:
    assert parse_restore(words) == expected


def test_restore_is_read_as_xl_reads_it() -> None:
    for words, answer in answers("restore", ["a", "b", "-p", "--", "--vncviewer", "-x"]):
        got = parse_restore(words)
        text = "xl" if got is None else f"{f'<{got.config}>' if got.config else ''}<{got.checkpoint}>"
        assert text == answer, words


def test_migrate_receive_is_read_as_xl_reads_it() -> None:
    vocabulary = ["-e", "-pd", "--", "x", "--colo", "--coloft-script", "--userspace", "-h", "--he", "-x"]
    for words, answer in answers("migrate-receive", vocabulary):
        assert is_receive(words) == (answer == "receives"), words


@pytest.mark.parametrize(
    ("argv", "path"),
    [
        (["xl", "create", "g.cfg"], "g.cfg"),
        (["/usr/lib/xen-4.17/bin/xl", "-vvv", "-t", "cr", "g.cfg"], "g.cfg"),
        (["xl", "create", "-p", "-c", "-q", "-d", "-i", "-f", "g.cfg"], "g.cfg"),
        (["xl", "-N", "create", "g.cfg"], None),  # a dry run
        (["xl", "list"], None),
        (["xl", "-v"], None),
        (["xl", "c", "g.cfg"], None),
        (["xl", "destroy", "create"], None),
        ([], None),
        (["vim", "xl", "create", "g.cfg"], None),  # these are no xl: what they name may be anything
        (["sudo", "xl", "create", "g.cfg"], None),
        (["/bin/sh", "/usr/sbin/xl", "create", "g.cfg"], None),  # Debian's wrapper, before it becomes the real one
        (["exl", "create", "g.cfg"], None),
    ],
)
def test_a_process_is_xl_when_its_program_is(argv: list[str], path: str | None) -> None:
    got = parse_xl(argv)
    assert (got.path if got else None) == path


@pytest.mark.parametrize(
    ("word", "expected"), [("create", True), ("cr", True), ("c", False), ("", False), ("created", False), ("cd", False)]
)
def test_beginnings_of_create(word: str, expected: bool) -> None:
    assert is_create(word) == expected


def test_options_are_read_as_pythons_getopt_reads_them() -> None:
    """Which the oracles above hold to glibc's on short command lines."""
    rng = random.Random(14)
    short, long = "af:g:b", ["alpha", "alpha-beta", "file=", "file-name=", "quiet"]
    words = [
        "-a",
        "-ab",
        "-f",
        "-fx",
        "-af",
        "-:",
        "-z",
        "-",
        "--",
        "",
        "x",
        "--alpha",
        "--al",
        "--alpha-",
        "--file",
        "--file=x",
    ]
    words += ["--file-", "--file-name", "--quiet=", "--q", "--=x", "--nothing", "-g-", "k=v"]
    for _ in range(20_000):
        line = rng.choices(words, k=rng.randrange(7))
        try:
            wanted = getopt.getopt(line, short, long)
        except getopt.GetoptError:
            wanted = None
        assert xl_command_line._getopt(line, short, long) == wanted, line
