# SPDX-License-Identifier: LGPL-2.1-only
"""Our wrapper as the device model of a configuration, in xl's language and in libxl's JSON."""

from xlplug.config.domain import DomainConfig
from xlplug.model.errors import ConfigError, HostError

__all__ = ["overridden", "override_words"]


def overridden(data: bytes, program: str, config: DomainConfig) -> bytes:
    """A configuration in either form, with our wrapper for its device model.

    Raises:
        ConfigError: its JSON is nested deeper than Python recurses.
        HostError: the wrapper's path cannot be written in an xl config.
    """
    if data.lstrip()[:1] != b"{":
        return data + "".join(f"\n{line}" for line in override_words(program, config)).encode() + b"\n"
    import json

    value = json.loads(data.rstrip(b"\0"))
    build = value.get("config", value)["b_info"]  # xl itself takes only one that is not wrapped, and says so
    build["device_model"] = program
    build["device_model_version"] = config.device_model_version.replace("-", "_")
    try:
        # "?" for half a surrogate pair is also what libxl reads there: yajl's yajl_encode.c, yajl_string_decode.
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") + b"\0"
    except RecursionError as error:
        raise ConfigError("its JSON is nested too deep", hint="give the domain's xl config", code="XLP204") from error


def override_words(program: str, config: DomainConfig) -> list[str]:
    """``k=v`` words that make xl start our wrapper, and no other version of the device model than it would have."""
    if any(char in program for char in '"\\\n'):
        raise HostError(
            f"{program!r} cannot be written in an xl config",
            hint="install the hook under another prefix",
            code="XLP603",
        )
    return [f'device_model_override="{program}"', f'device_model_version="{config.device_model_version}"']
