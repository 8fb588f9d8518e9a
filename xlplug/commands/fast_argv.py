# SPDX-License-Identifier: LGPL-2.1-only
"""Well-formed command lines of the hot commands, read without click.

Importing click takes more than twice as long as starting Python, and ``grant`` runs while a domain is being created.
This reads only what is plainly right; anything else (a mistake, an abbreviation, help) is None, and click decides.  A
test holds both to the same answers.
"""

from xlplug.commands.grant import GrantOptions

__all__ = ["grant_options"]

_VALUES = {"--config": "config", "--recorded": "recorded", "--format": "format"}
_FLAGS = {"--dry-run": "dry_run", "--map-legacy": "map_legacy"}


def grant_options(arguments: list[str]) -> GrantOptions | None:
    """Options of ``xlplug grant`` from what follows the command's name, or None."""
    values: dict[str, str | bool] = {}
    positional: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if word in _FLAGS:
            values[_FLAGS[word]] = True
        elif name in _VALUES:
            if not equals:
                following = next(words, None)
                if following is None or following.startswith("-"):
                    return None
                value = following
            values[_VALUES[name]] = value
        elif word.startswith("-") or not word:
            return None
        else:
            positional.append(word)
    if len(positional) != 1 or values.get("format", "text") not in ("text", "json"):
        return None
    return GrantOptions(positional[0], **values)  # type: ignore[arg-type]
