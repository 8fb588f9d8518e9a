# SPDX-License-Identifier: LGPL-2.1-only
"""What runs for ``xl create``: the Python half of the front end, the device model wrapper, and their installation."""


def main(argv: list[str]) -> None:
    """The device model wrapper.

    It is imported from here by the copies that ``xlplug hook install`` makes, and a copy may be older than the package.
    """
    import gc

    from xlplug.dom0 import lean_import

    gc.disable()  # this process becomes another program in a moment; looking for garbage takes a tenth of its time
    lean_import.install()
    from xlplug.model import lean_typing

    lean_typing.install()
    from xlplug.hook.wrapper import main as wrapper

    wrapper(argv)
