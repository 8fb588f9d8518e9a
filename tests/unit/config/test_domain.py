# SPDX-License-Identifier: LGPL-2.1-only
"""The typed view of a configuration, from xl's text and from libxl's JSON."""

import json

import pytest

from xlplug.config.domain import DEFAULT_MAXMEM, DomainConfig, IomemRange, PciAssignment, Vif, passes_igd
from xlplug.config.from_libxl import from_libxl
from xlplug.config.from_xl import from_settings
from xlplug.config.language import parse
from xlplug.config.pci_spec import parse_pci_spec
from xlplug.model.bdf import Bdf
from xlplug.model.errors import ConfigError
from xlplug.model.rangeset import Range


def view(text: str) -> DomainConfig:
    return from_settings(parse(text.encode(), path="d.cfg"))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "pv"), ('type="hvm"', "hvm"), ('type="h"', "hvm"),
        ('type=""', "hvm"), ('type="p"', "pv"), ('type="pvh"', "pvh"),
        ('builder="hvm"', "hvm"), ('builder="generic"', "pv"), ('type="pv";builder="generic"', "pv"),
    ],
)  # fmt: skip
def test_type(text: str, kind: str) -> None:
    assert view(text).type == kind


@pytest.mark.parametrize(
    ("text", "memory", "maxmem"),
    [
        ("", 32, 32),
        ("memory=64", 64, 64),
        ("maxmem=64", 64, 64),
        ("memory=64;maxmem=128", 64, 128),
        ('memory="0x40"', 64, 64),
    ],
)
def test_memory(text: str, memory: int, maxmem: int) -> None:
    assert view(text)[2:4] == (memory, maxmem)


@pytest.mark.parametrize(
    ("text", "vga", "videoram"),
    [
        ("", "cirrus", 8), ('vga="stdvga"', "stdvga", 16), ('vga="none"',
        "none", 0), ('vga="qxl"', "qxl", 128), ("stdvga=1", "stdvga", 16),
        ("videoram=32", "cirrus", 32), ("videoram=1",
        "cirrus", 8), ('vga="stdvga";device_model_version="qemu-xen-traditional"', "stdvga", 8),
    ],
)  # fmt: skip
def test_video(text: str, vga: str, videoram: int) -> None:
    made = view(f'type="hvm"\n{text}')
    assert (made.vga, made.videoram) == (vga, videoram)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", None),
        ("gfx_passthru=0", None),
        ("gfx_passthru=1", "default"),
        ('gfx_passthru="1"', "default"),
        ('gfx_passthru="igd"', "igd"),
        ('gfx_passthru="IGD"', "igd"),
        ('gfx_passthru="default"', "default"),
    ],
)
def test_gfx_passthru(text: str, wanted: str | None) -> None:
    assert view(f'type="hvm"\n{text}').gfx_passthru == wanted
    assert view(text).gfx_passthru is None, "only for HVM"


def test_pci_and_its_global_flags() -> None:
    made = view(
        'pci_permissive=1\npci_seize=1\npci=["00:02.0","01:00.*,permissive=0","name=foo,seize=0",["nested"],"02:00.0"]'
    )
    assert made.pci == (
        PciAssignment(Bdf(0, 0, 2, 0), permissive=True, seize=True),
        PciAssignment(Bdf(0, 1, 0, 0), all_functions=True, permissive=False, seize=True),
        PciAssignment(None, name="foo", permissive=True, seize=False),
    ), "reading ends at the first nested list, as xl's loop does"
    scalar = view('pci="00:02.0"')
    assert scalar.pci == ()
    assert [w.what for w in scalar.warnings] == ["d.cfg:1: pci: a string where a list is wanted, and xl ignores it"]


def test_settings_of_ours_that_do_nothing() -> None:
    made = view('xlplug_map_legcy=1\nxlplug_preload="yes"\nfoo=1')
    assert [(w.what, w.code) for w in made.warnings] == [
        ("d.cfg:1: xlplug_map_legcy: xlplug has no such setting", "XLP215"),
        ("d.cfg:2: xlplug_preload: not a number, and xlplug ignores it", "XLP207"),
    ]


@pytest.mark.parametrize(
    ("last", "word", "said"),
    [
        ("", 'gfx_passthru="nvidia"', "command line:2: gfx_passthru: 'nvidia' is not valid"),
        ("", 'pci=["00:99.0"]', "command line:2: pci: PCI device '00:99.0'"),
        ("", 'xlplug_delegate=["xx"]', "command line:2: xlplug_delegate: 'xx' is not a PCI address"),
        ("", 'pci="00:02.0"', "command line:2: pci: a string where a list is wanted"),
        ('gfx_passthru="x"', "memory=1", "d.cfg:2: gfx_passthru: 'x' is not valid"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_not_a_line_of_the_file(last: str, word: str, said: str) -> None:
    try:
        settings = parse(f'type="hvm"\n{last}'.encode(), path="d.cfg", extra=("vcpus=1", word))
        found = str(from_settings(settings).warnings[0])
    except ConfigError as error:
        found = str(error)
    assert found.startswith(said)


def test_flags_that_xl_reads_as_0() -> None:
    made = view(
        'pci=["00:02.0,permissive=yes,seize=0x1","01:00.0,msitranslate=0,seize=00","02:00.0,power_mgmt=1x,seize="]'
    )
    assert [(w.what, w.advice) for w in made.warnings] == [
        (f"d.cfg:1: pci: '{spec}': xl reads {flag} as a number, and this as 0", f"write {flag}=1, or {flag}=0")
        for spec, flag in (
            ("00:02.0,permissive=yes,seize=0x1", "permissive"),
            ("00:02.0,permissive=yes,seize=0x1", "seize"),
            ("02:00.0,power_mgmt=1x,seize=", "seize"),
        )
    ]
    assert not any(entry.permissive or entry.seize for entry in made.pci)


def test_ranges() -> None:
    made = view(
        'ioports=["3b0-3bb","2f8","0x300-0x301"]\niomem=["a0,20","0xfed40,5@fed50"]\nirqs=["5"]\nvif=["","model=e1000,type=vif"]'
    )
    assert [tuple(r) for r in made.ioports] == [(0x3B0, 0x3BC), (0x2F8, 0x2F9), (0x300, 0x302)]
    assert made.iomem == (IomemRange(0xA0, 0x20, 0xA0), IomemRange(0xFED40, 5, 0xFED50))
    assert made.irqs == (5,)
    assert made.vifs == (Vif(), Vif("vif", "e1000"))


@pytest.mark.parametrize(
    "text",
    [
        'type="vax"', 'builder="x"', 'type="hvm";builder="generic"',
        'memory="-1"', "memory=0", 'type="hvm";vga="x"', 'device_model_version="x"',
        'type="hvm";gfx_passthru="nvidia"', 'pci=["x"]', 'ioports=["3bb-3b0"]',
        'ioports=["xyz"]', 'ioports=["ffff-10000"]', 'ioports=["3f8-"]', 'ioports=["3f8-3ff "]', 'ioports=["3f8--1"]',
        'ioports=["-1"]', 'iomem=["a0"]',
        'iomem=["a0,0"]', 'iomem=["a0,1@"]', 'irqs=["x"]', 'irqs=[""]', "memory=9223372036854775807", "maxmem=268435457",
        'device_model_args="-usb"', 'device_model_args_pv="-usb"', 'type="hvm";device_model_args_hvm="-usb"',
        'ioports=["2f8",["3f8"]]', 'iomem=[["a0,1"]]', 'irqs=["1",[]]',
        'type="hvm";mmio_hole=255', 'type="hvm";mmio_hole=3841',
        'irqs=["4294967296"]', f'irqs=["{"9" * 5000}"]', f'iomem=["{"f" * 17},1"]', f'ioports=["{"f" * 5000}"]',
    ],
)  # fmt: skip
def test_what_makes_xl_exit_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        view(f"name='x'\n\n{text}\n")
    assert str(caught.value).startswith("d.cfg:3: ")
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "memory=0b1000000",
        'device_model_stubdomain_override="0b1"',
        "pci_seize=0b0",
        'videoram=" -0B1"',
        "xlplug_preload=0b1",
    ],
)
def test_binary_which_only_some_xl_take_for_a_number_is_refused(text: str) -> None:
    """Seen with Debian 13's libxlutil, which is built with glibc 2.41; Debian 12's warns and ignores the setting."""
    with pytest.raises(ConfigError, match=r"is not valid; write it in decimal"):
        view(f'type="hvm"\n{text}\n')


def test_what_is_a_number_to_no_xl_is_ignored_as_before() -> None:
    for text in ("0b", "0b2", "0b1x", "b1"):
        assert view(f'type="hvm"\nmemory="{text}"\n').memory == DEFAULT_MAXMEM
    assert view('memory="0b"\nmemory+="1"\n').memory == DEFAULT_MAXMEM
    assert view('name="0b1"\n').name == "0b1"


@pytest.mark.parametrize("text", ["3f8 -3ff", "3f8 ", "3f8-3ff-400", "3f8,8"])
def test_ports_of_which_xl_takes_the_first_alone_are_refused(text: str) -> None:
    """xl warns and grants 3f8; what was meant is not known, and it must not be more than xl grants."""
    with pytest.raises(ConfigError, match=r"ioports: .* is not valid"):
        view(f"ioports=['{text}']\n")


def test_ports_as_strtoul_reads_them() -> None:
    assert view('ioports=[" 3f8", "+2f8-2ff", "3e8- 3ef", "0X2e8"]').ioports == (
        Range(0x3F8, 0x3F9),
        Range(0x2F8, 0x300),
        Range(0x3E8, 0x3F0),
        Range(0x2E8, 0x2E9),
    )


#: From the lab: `xl create -n` and userdata of a guest with the display, on Xen 4.17.
LIBXL = """{"c_info": {"type": "hvm", "name": "g", "domid": 4294967295, "uuid": "e9f7d63e-d086-4bfd-8c71-9b5bb2dabcd8",
 "run_hotplug_scripts": "True"}, "b_info": {"max_vcpus": 1, "max_memkb": 65536, "target_memkb": 65536, "video_memkb": 0,
 "claim_mode": "True", "type.hvm": {"vga": {"kind": "none"}, "vnc": {"enable": "False"}, "sdl": {}, "spice": {},
 "gfx_passthru": "True", "gfx_passthru_kind": "igd", "rdm": {}}}, "pcidevs": [{"dev": 1, "vfunc_mask": 1}],
 "on_reboot": "restart"}"""


def test_libxl_s_json_gives_the_same_view() -> None:
    wanted = view('type="hvm"\nname="g"\nmemory=64\nvga="none"\ngfx_passthru="igd"\npci=["00:01.0"]')
    assert from_libxl(json.loads(LIBXL)) == wanted
    assert from_libxl({"domid": 3, "config": json.loads(LIBXL)}) == wanted, "xl list -l wraps it"


def test_libxl_s_json_with_more() -> None:
    data = json.loads(LIBXL)
    data["b_info"] |= {
        "max_memkb": 131072, "device_model_stubdomain": "True", "stubdomain_memkb": 262144, "dm_restrict": "False",
        "ioports": [{"first": 0x3B0, "number": 12}], "iomem": [{"start": 0xA0, "number": 32, "gfn": (1 << 64) - 1}],
    }  # fmt: skip
    data["nics"] = [{"model": "e1000", "nictype": "vif_ioemu"}, {}]
    data["pcidevs"] = [{"domain": 1, "bus": 2, "dev": 3, "func": 4, "permissive": True, "seize": False}]
    made = from_libxl(data)
    assert (made.memory, made.maxmem, made.stubdom, made.stubdomain_memory) == (64, 128, True, 256)
    assert made.ioports == ((0x3B0, 0x3BC),)
    assert made.iomem == (IomemRange(0xA0, 32, 0xA0),)
    assert made.vifs == (Vif("ioemu", "e1000"), Vif())
    assert made.pci == (PciAssignment(Bdf(1, 2, 3, 4), permissive=True),)


@pytest.mark.parametrize(
    ("device", "entry"),
    [
        ({"bus": 2, "vdevfn": 40, "vfunc_mask": 0xFFFFFFFF}, "0000:02:00.*"),
        ({"bus": 2, "vdevfn": 40, "vfunc_mask": 5}, "0000:02:00.*"),  # 4.14, of functions 0 and 2
        ({"bus": 2, "func": 3, "vfunc_mask": 1}, "0000:02:00.3"),
        ({"name": "gpu", "vfunc_mask": 1}, "name=gpu"),  # and not the host bridge at 00:00.0
        ({"name": "gpu", "bus": 2, "vfunc_mask": 1}, "0000:02:00.0"),
    ],
)
def test_a_slot_and_a_name_in_libxl_s_json(device: dict[str, object], entry: str) -> None:
    [found] = from_libxl(json.loads(LIBXL) | {"pcidevs": [device]}).pci
    assert str(found) == entry
    assert found.all_functions == entry.endswith("*")


@pytest.mark.parametrize(
    "data",
    [{}, {"c_info": {}}, {"c_info": {"type": "x"}, "b_info": {}}, {"c_info": 1, "b_info": 2}, [], None, "x", 1.5],
)
def test_what_is_not_libxl_s(data: object) -> None:
    with pytest.raises(ConfigError, match="not libxl's JSON"):
        from_libxl(data)


@pytest.mark.parametrize(
    ("part", "more", "says"),
    [
        ("c_info", {"name": 5}, "c_info.name is not text"),
        ("c_info", {"type": []}, "c_info.type is not text"),
        ("b_info", {"max_memkb": 1.5}, "b_info.max_memkb is not a number from 0 to"),
        ("b_info", {"max_memkb": True}, "b_info.max_memkb is not a number"),
        ("b_info", {"max_memkb": 1 << 62}, "b_info.max_memkb is not a number"),
        ("b_info", {"device_model_version": "vax"}, "b_info.device_model_version is not one of"),
        (
            "b_info",
            {"ioports": [{"first": -5, "number": 3}]},
            "b_info.ioports[0].first is not a number from 0 to 65535",
        ),
        ("b_info", {"ioports": [{"first": 0xFFF0, "number": 17}]}, "b_info.ioports[0].number"),
        ("b_info", {"iomem": {"start": 1}}, "b_info.iomem is not a list"),
        ("b_info", {"irqs": ["5"]}, "b_info.irqs is not a list of numbers"),
        ("b_info", {"extra": "-machine"}, "b_info.extra is not a list"),
        ("b_info", {"type.hvm": {"gfx_passthru": "True", "gfx_passthru_kind": []}}, "gfx_passthru_kind is not text"),
    ],
)
def test_types_of_libxl_s_json(part: str, more: dict[str, object], says: str) -> None:
    data = json.loads(LIBXL)
    data[part] |= more
    with pytest.raises(ConfigError) as caught:
        from_libxl(data, path="g.json")
    assert str(caught.value).startswith(f"g.json: not libxl's JSON for a domain: {says}") or says in str(caught.value)
    assert "--config" not in str(caught.value), "which few commands have"


@pytest.mark.parametrize("device", [{"dev": 32}, {"domain": 1 << 40}, {"bus": -1}, {"func": "0"}, 5])
def test_addresses_in_libxl_s_json(device: object) -> None:
    data = json.loads(LIBXL) | {"pcidevs": [device]}
    with pytest.raises(ConfigError, match=r"pcidevs\[0\]"):
        from_libxl(data)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("9" * 5000, True),
        (f"-{'9' * 5000}", False),
        ("0" * 5000, False),
        (f"{'0' * 5000}1", True),
        ("4294967296", False),
    ],
)
def test_flags_of_any_length(text: str, value: bool) -> None:
    """As libxlutil's atoi() has them: 64 bits that saturate, cut to 32."""
    assert parse_pci_spec(f"00:01.0,permissive={text}").permissive is value


def test_the_example_says_what_its_comments_say() -> None:
    with open("examples/domain.cfg", "rb") as file:
        made = from_settings(parse(file.read()))
    assert (made.type, made.gfx_passthru, made.stubdom, made.map_legacy) == ("hvm", "igd", True, False)
    assert not made.warnings


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-machine", "pc,accel=xen,suppress-vmdesc=on,igd-passthru=on"], True),
        (["-machine", "pc,accel=xen", "-machine", "igd-passthru=on"], True),
        (["-machine", "pc,igd-passthru=off"], False),
        (["-name", "igd-passthru=on"], False),
        (["-machine"], False),
    ],
)
def test_passes_igd(arguments: list[str], expected: bool) -> None:
    assert passes_igd(arguments) == expected


ARGS = '"-machine","igd-passthru=on"'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"device_model_args=[{ARGS}]", ("igd", True)),
        (f"device_model_args_hvm=[{ARGS}]", ("igd", True)),
        (f'device_model_args=[{ARGS}]\ngfx_passthru="igd"', ("igd", False)),
        (f'device_model_args=[{ARGS}]\ntype="pvh"', (None, False)),
        ('device_model_args=["-machine","usb=off"]', (None, False)),
    ],
)
def test_qemu_alone_is_told_of_a_display(text: str, expected: tuple[str | None, bool]) -> None:
    config = view(f'type="hvm"\n{text}')
    assert (config.gfx_passthru, config.igd_by_args) == expected


def test_qemu_alone_is_told_of_a_display_by_libvirt() -> None:
    """As libxl keeps what ``<xen:commandline>`` says."""
    config = from_libxl({"c_info": {"type": "hvm"}, "b_info": {"extra": ["-machine", "igd-passthru=on"]}})
    assert (config.gfx_passthru, config.igd_by_args, config.wants_legacy) == ("igd", True, True)


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ('xlplug_delegate=["03:00.0"]', ["0000:03:00.0"]),
        (
            'xlplug_delegate=["03:00.0,vslot=1d", "04:00.1,vslot=1d.1"]',
            ["0000:03:00.0,vslot=1d.0", "0000:04:00.1,vslot=1d.1"],
        ),
        ("xlplug_delegate=[]", []),
    ],
)
def test_delegated_functions(text: str, specs: list[str]) -> None:
    config = view(f'type="hvm"\n{text}\n')
    assert [str(spec) for spec in config.delegate] == specs
    assert config.wants_legacy == bool(specs)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('type="hvm"\nxlplug_delegate=["03:00"]', "'03:00' is not a PCI address"),
        ('type="hvm"\nxlplug_delegate=["03:00.0","03:00.0"]', "is named twice"),
        ('type="hvm"\nxlplug_delegate=["03:00.0,vslot=1d","04:00.0,vslot=1d"]', "two functions at 1d.0"),
        (
            'type="hvm"\npci=["03:00.0"]\nxlplug_delegate=["03:00.0"]',
            "0000:03:00.0 is also in pci; remove it from one of them",
        ),
        (
            'type="hvm"\npci=["03:00.*@5"]\nxlplug_delegate=["03:00.1"]',
            "0000:03:00.1 is also in pci; remove it from one of them",
        ),
        ('type="hvm"\nxlplug_delegate=["03:00.0,vslot=7"]', "slot 7 of the guest is left to QEMU"),
        ('type="hvm"\ngfx_passthru="igd"\nxlplug_delegate=["03:00.0,vslot=1f"]', "slot 1f of the guest has QEMU's ISA"),
        ('type="pvh"\nxlplug_delegate=["03:00.0"]', "run 'xlplug dm' once the guest is there"),
    ],
)
def test_delegated_functions_that_cannot_be(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        view(f"{text}\n")
    assert complaint in str(caught.value)
    assert "xlplug_delegate" in str(caught.value)


def test_what_qemu_emulates() -> None:
    config = view('type="hvm"\nserial="pty"\nusb=1\nsoundhw="ac97,sb16"')
    assert (config.serials, config.usb, config.soundhw) == (("pty",), True, ("ac97", "sb16"))
    config = view('type="hvm"\nserial=["pty","none"]\nusbdevice=["tablet"]')
    assert (config.serials, config.usb) == (("pty", "none"), True)
    config = view('type="hvm"')
    assert (config.serials, config.usb, config.soundhw) == ((), False, ())
    hvm = {"serial": "pty", "usb": "True", "soundhw": "hda"}
    config = from_libxl({"c_info": {"type": "hvm"}, "b_info": {"type.hvm": hvm}})
    assert (config.serials, config.usb, config.soundhw) == (("pty",), True, ("hda",))
    hvm = {"serial_list": ["pty", "none"], "usbdevice_list": ["tablet"]}
    config = from_libxl({"c_info": {"type": "hvm"}, "b_info": {"type.hvm": hvm}})
    assert (config.serials, config.usb, config.soundhw) == (("pty", "none"), True, ())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ioports = [2e8-2ef]", 'put quotes around it: "2e8-2ef"'),
        ("ioports = [0x378-0x37a]", 'put quotes around it: "0x378-0x37a"'),
        ("ioports = [300-3ff, 2f8]", 'put quotes around it: "300-3ff"'),
        ("memory = -5", "negative numbers need quotes"),
        ("pci=['01:00.0,permissive=1,rombar=0']", "unknown option 'rombar'; remove it"),
        ("pci=['01:00.8']", "'01:00.8' is not an address (bus up to ff, device up to 1f, function up to 7)"),
        ("pci=['0x01:00.0']", "is not an address"),
        ("pci=['gpu']", "'gpu' is not key=value"),
        ("pci=['10000:e1:00.0']", "behind Intel VMD, and Xen and xl cannot name it; switch VMD off"),
        ("pci=['fffff:00:02.0,permissive=1']", "behind Intel VMD"),
    ],
)
def test_what_is_wrong_is_said_by_who_found_it(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        view(text)
    assert says in str(caught.value)
