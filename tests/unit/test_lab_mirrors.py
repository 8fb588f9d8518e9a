# SPDX-License-Identifier: LGPL-2.1-only
"""Where the lab gets its packages: apt's own sources, of whatever shape."""

import pytest

from tests.lab.mirrors import VARIABLE, Mirrors, NoMirrorError, from_targets, mirrors

BOOKWORM = "http://mirror.test/debian/ bookworm main\nhttp://mirror.test/debian/ bookworm-updates main\n"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (BOOKWORM, Mirrors("http://mirror.test/debian", None)),
        (
            BOOKWORM + "http://sec.test/debian-security/ bookworm-security main\n",
            Mirrors("http://mirror.test/debian", "http://sec.test/debian-security"),
        ),
        (
            "https://other.test/apt/ nodistro main\nhttps://cloud.test/apt/ cloud-sdk-bookworm main\n"
            "http://mirror.test/debian/ bookworm non-free\nhttp://mirror.test/debian/ stable main\n",
            Mirrors("http://mirror.test/debian", None),
        ),
        (
            "http://sec.test/debian-security/ oldstable/updates main\nhttp://mirror.test/debian/ oldstable main\n",
            Mirrors("http://mirror.test/debian", "http://sec.test/debian-security"),
        ),
    ],
)
def test_from_apts_sources(shown: str, expected: Mirrors) -> None:
    assert from_targets(shown, "bookworm") == expected


@pytest.mark.parametrize(
    "shown", ["", "http://archive.test/ubuntu/ noble main\n", "http://m.test/debian/ bookworm contrib\n"]
)
def test_no_archive_of_debian(shown: str) -> None:
    with pytest.raises(NoMirrorError, match=f"set {VARIABLE} to the URL of a Debian archive"):
        from_targets(shown, "")


def test_the_variable_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "http://m.test/debian/")
    assert mirrors() == Mirrors("http://m.test/debian", "http://m.test/debian-security")
    monkeypatch.setenv(VARIABLE, "http://m.test/debian http://s.test/sec")
    assert mirrors().lines("trixie", backports=True) == [
        "deb http://m.test/debian trixie main",
        "deb http://m.test/debian trixie-updates main",
        "deb http://s.test/sec trixie-security main",
        "deb http://m.test/debian trixie-backports main",
    ]
