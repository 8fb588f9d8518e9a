# SPDX-License-Identifier: LGPL-2.1-only
"""Domains of libvirt's libxl driver: definition and status, as libvirt writes them."""

from pathlib import Path

import pytest

from xlplug.config.from_libvirt import from_xml
from xlplug.dom0.find_config import libvirt_definition
from xlplug.model.errors import ConfigError

UUID = "c0ffee00-1234-5678-9abc-def012345678"
DEFINITION = f"""<!--
WARNING: THIS IS AN AUTO-GENERATED FILE.
-->

<domain type='xen'>
  <name>win</name>
  <uuid>{UUID}</uuid>
  <memory unit='KiB'>2097152</memory>
  <currentMemory unit='KiB'>1048576</currentMemory>
  <os>
    <type arch='x86_64' machine='xenfv'>hvm</type>
    <loader type='rom'>/usr/lib/xen-4.17/boot/hvmloader</loader>
  </os>
  <devices>
    <emulator>/usr/local/lib/xlplug/device-model</emulator>
    <hostdev mode='subsystem' type='pci' managed='yes'>
      <driver name='xen'/>
      <source>
        <address domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>
      </source>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x05' function='0x0'/>
    </hostdev>
    <hostdev mode='subsystem' type='usb'><source><address bus='1' device='2'/></source></hostdev>
    <interface type='hostdev'><source><address type='pci' bus='0x09' slot='0x10' function='0x1'/></source></interface>
  </devices>
</domain>
"""
STATUS = f"<domstatus state='running' reason='booted' pid='0'>\n{DEFINITION.partition('-->')[2]}</domstatus>\n"


@pytest.mark.parametrize("text", [DEFINITION, STATUS])
@pytest.mark.parametrize("igd", [True, False])
def test_what_planning_reads(text: str, igd: bool) -> None:
    config = from_xml(text.encode(), "win.xml", gfx_passthru=igd)
    assert (config.name, config.type, config.maxmem, config.memory) == ("win", "hvm", 2048, 1024)
    assert [str(entry) for entry in config.pci] == ["0000:00:02.0"]
    assert config.device_model_override == "/usr/local/lib/xlplug/device-model"
    assert config.gfx_passthru == ("igd" if igd else None)
    assert (config.wants_legacy, config.igd_by_args) == (igd, igd)


@pytest.mark.parametrize(
    ("video", "card"),
    [
        ("", "none"),
        ("<video><model type='vga' vram='16384' heads='1'/></video>", "stdvga"),
        ("<video><model type='xen'/></video>", "stdvga"),
        ("<video><model type='cirrus'/></video><video><model type='qxl'/></video>", "cirrus"),
        ("<video><model type='qxl'/></video>", "qxl"),
        ("<video><model type='none'/></video>", "none"),
        ("<video/>", "none"),
    ],
)
def test_the_emulated_card(video: str, card: str) -> None:
    text = f"<domain><os><type>hvm</type></os><devices>{video}</devices></domain>"
    assert from_xml(text.encode(), "p", gfx_passthru=True).vga == card


@pytest.mark.parametrize(
    ("kind", "expected"), [("hvm", "hvm"), ("xenpvh", "pvh"), ("linux", "pv"), ("xen", "pv"), ("", "pv")]
)
def test_type(kind: str, expected: str) -> None:
    config = from_xml(f"<domain><os><type>{kind}</type></os></domain>".encode(), "p", gfx_passthru=True)
    assert (config.type, config.wants_legacy) == (expected, expected == "hvm")


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        ("<memory>1048576</memory>", 1024),
        ("<memory unit='GiB'>2</memory>", 2048),
        ("<memory unit='b'>1073741824</memory>", 1024),
        ("<memory unit='MB'>1024</memory>", 976),
        ("<memory unit='TiB'>1</memory>", 1 << 20),
        ("", 0),
    ],
)
def test_memory(memory: str, expected: int) -> None:
    assert from_xml(f"<domain>{memory}</domain>".encode(), "p", gfx_passthru=False).maxmem == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"w.xml: not XML \(.*; define the domain again"),
        ("<domain>", r"w.xml: not XML"),
        ("<network/>", r"w.xml: no <domain> in it"),
        ("<domain><memory>x</memory></domain>", r"w.xml: <memory> is not understood; give it in KiB"),
        ("<domain><memory unit='X'>1</memory></domain>", r"<memory> is not understood"),
        (f"<domain><memory unit='b'>{'9' * 4000}</memory></domain>", r"<memory> is not understood"),
        (f"<domain><memory>{'9' * 5000}</memory></domain>", r"<memory> is not understood"),
        ("<domain><devices><hostdev type='pci'/></devices></domain>", r"a <hostdev> without a PCI address; correct it"),
        *(
            (f"<domain><devices><hostdev type='pci'><source><address {where}/></source></hostdev></devices></domain>",
             r"a <hostdev> without a PCI address")
            for where in ("bus='0x100' slot='0'", "bus='0' slot='0x20'", "bus='0' slot='0' function='8'",
                          "domain='0x10000' bus='0' slot='0'", "bus='-1' slot='0'", "slot='0'")
        ),
    ],
)  # fmt: skip
def test_what_is_not_understood(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_xml(text.encode(), "w.xml", gfx_passthru=True)


def test_find(tmp_path: Path) -> None:
    running, defined = tmp_path / "run", tmp_path / "etc"
    running.mkdir()
    defined.mkdir()
    folders = (str(running), str(defined), str(tmp_path / "none"))
    assert libvirt_definition("win", UUID, folders) is None
    (defined / "win.xml").write_text(DEFINITION)
    assert libvirt_definition("win", UUID, folders) == (DEFINITION.encode(), str(defined / "win.xml"))
    (running / "win.xml").write_text(STATUS)
    assert libvirt_definition("win", UUID, folders) == (STATUS.encode(), str(running / "win.xml"))
    assert libvirt_definition("win", UUID.replace("c", "d"), folders) is None  # an xl domain of the same name
    for name in ("", "../etc/win", "/etc/passwd", ".win", "lin"):
        assert libvirt_definition(name, UUID, folders) is None
