# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug config``: parse configurations as xl does."""

from collections.abc import Sequence

from xlplug.commands.common import read_config
from xlplug.dom0 import streams
from xlplug.model.errors import EXIT_DONE, EXIT_REFUSED, ConfigError


def config(files: Sequence[str]) -> int:
    """One JSON object a line for each file; 1 when any is bad."""
    from json import dumps

    from xlplug.config import language

    code = EXIT_DONE
    for path in files:
        try:
            settings = language.parse(read_config(path), path=path)
        except ConfigError as error:
            code = EXIT_REFUSED
            where = {
                "line": error.line,
                "column": error.column,
                "message": error.message,
                "advice": error.hint,
                "code": error.code,
            }
            streams.write(dumps({"file": path, "error": where}) + "\n")
            continue
        body = ", ".join(f"{dumps(name)}: {language.json_value(value)}" for name, value in settings.items())
        streams.write(f'{{"file": {dumps(path)}, "settings": {{{body}}}}}\n')
    return code
