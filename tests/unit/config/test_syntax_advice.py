# SPDX-License-Identifier: LGPL-2.1-only
"""What is wrong with a config that xl would not parse, and what to do: the slips of every day."""

import pytest

from xlplug.config.language import parse
from xlplug.model.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("memory = 512M", "unexpected 'M'; numbers have no unit; memory is in MiB"),
        ("a = 0xFF", "unexpected 'F'; hexadecimal is lower case outside quotes: write 0xff"),
        ("memory : 512", "unexpected ':'; write = between a name and its value"),
        ("pci = 00:02.0", "unexpected ':'; put quotes around text"),
        ("name = gpu", "'gpu' where a value is wanted; put quotes around it: \"gpu\""),
        ('name = "gpu', "a string must end on its line with the quote it began with"),
        ("type = 'hvm'\r", "the file has Windows line ends; run: sed -i 's/\\r$//' FILE"),
        ("pci = ['00:02.0' '00:03.0']", "put a comma between the items of a list, and ] behind the last one"),
        ("pci = ['00:02.0'\nname = 'x'", "put a comma between the items of a list, and ] behind the last one"),
        ("ioports = 2f8-2ff", 'put quotes around it: "2f8-2ff"'),
        ("/etc/xen/b.cfg", "unexpected '/'; a setting is name = value, and one config is read at a time"),
        ("<domain type='xen'/>", "unexpected '<'; this is XML; for libvirt's: virsh domxml-to-native xen-xl FILE"),
        ("import os", "this looks like an old Python xend config; write plain name = value lines"),
    ],
)
def test_advice(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(f"{text}\n".encode(), path="d.cfg")
    assert str(raised.value).endswith(f"{said} [XLP202]")
