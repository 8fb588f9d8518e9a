# SPDX-License-Identifier: LGPL-2.1-only
"""Colours of an address map, for light and for dark: each kind its own, and none alone: every cell says what it is in words.

Fill and text of a cell have a contrast of at least 4.5:1 (WCAG 2.1, 1.4.3); tests/unit/picture measures it.
"""

__all__ = ["DARK", "LIGHT", "style"]

#: kind: (fill, text); "page", "faint" and "line" are for everything else.
LIGHT = {
    "page": ("#ffffff", "#1c2024"),
    "faint": ("#f4f5f6", "#5b626a"),
    "line": ("#d5d9dd", "#5b626a"),
    "legacy": ("#d9dee4", "#1c2024"),
    "bar": ("#f6e7c8", "#4a3403"),
    "memory": ("#eef0f2", "#3c434a"),
    "granted": ("#1f5fbf", "#ffffff"),
    "both": ("#4f4bb5", "#ffffff"),
    "libxl": ("#0b6e63", "#ffffff"),
    "delegated": ("#fbe3d0", "#6b2f00"),
    "populated": ("#7a3e9d", "#ffffff"),
    "conflict": ("#b3261e", "#ffffff"),
}
DARK = {
    "page": ("#16191d", "#e6e9ec"),
    "faint": ("#1e2227", "#a3abb4"),
    "line": ("#3a4149", "#a3abb4"),
    "legacy": ("#3a4350", "#eef1f4"),
    "bar": ("#4d3d16", "#fbe9c0"),
    "memory": ("#262b31", "#c4cbd2"),
    "granted": ("#7fb1ff", "#06204a"),
    "both": ("#b3aeff", "#1a1650"),
    "libxl": ("#5fd0c1", "#00312b"),
    "delegated": ("#5a3213", "#ffd9bb"),
    "populated": ("#d7a6f2", "#38114d"),
    "conflict": ("#ff8a80", "#4a0500"),
}


def style() -> str:
    """Both as CSS variables: ``--KIND`` for the fill and ``--KIND-text``."""
    return f":root{{color-scheme:light dark;{_variables(LIGHT)}}}@media(prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}"


def _variables(colours: dict[str, tuple[str, str]]) -> str:
    return "".join(f"--{name}:{fill};--{name}-text:{text};" for name, (fill, text) in colours.items())
