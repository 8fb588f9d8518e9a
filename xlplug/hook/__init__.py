# SPDX-License-Identifier: LGPL-2.1-only
"""What runs for ``xl create``: the front end's other half, the device model wrapper, and their installation."""


def main(argv: list[str]) -> None:
    """The device model wrapper.

    Wrappers that ``xlplug hook install`` has copied import it from here, and a copy outlives an upgrade of the package.
    """
    import gc

    from xlplug.model import lean_typing

    gc.disable()  # this process becomes another program in a moment; looking for garbage takes a tenth of its time
    lean_typing.install()
    from xlplug.hook.wrapper import main as wrapper

    wrapper(argv)
