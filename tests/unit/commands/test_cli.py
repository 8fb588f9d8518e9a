# SPDX-License-Identifier: LGPL-2.1-only
"""The command line: processes (tests/forked.py), on recorded hosts, right and wrong."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import click
import jsonschema
import pytest
from click.testing import CliRunner

from tests.fault.inject import Fault, FaultyStore, Injector
from tests.fault.scenarios import PLAIN, WHO
from tests.forked import CHECKOUT, xlplug
from tests.unit.fakes import xenstore
from xlplug.commands import cli, fast_argv, fast_help, grant, plan, show
from xlplug.commands.click_group import TASKS
from xlplug.dom0.recording import load_domain
from xlplug.execute import grants
from xlplug.execute.compare import compare
from xlplug.model.hypervisor import DomainInfo
from xlplug.model.rangeset import RangeSet
from xlplug.xen.in_memory import MemStore, MemXen

ROOT = Path(__file__).parents[3]
HOSTS = ROOT / "tests" / "recorded" / "hosts"
DOMAINS = ROOT / "tests" / "recorded" / "domains"
EXAMPLE = str(ROOT / "examples" / "domain.cfg")


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["grant", "7", "--recorded", str(DOMAINS / "igd-laptop-stubdom")],
        ["plan", EXAMPLE, "--host", str(HOSTS / "igd-laptop.json")],
        ["grnat"],
        ["config", "-"],
        ["config", "/nonexistent"],
    ],
)
def test_a_command_that_python_starts_does_what_the_others_here_do(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "xlplug", *words], input=b"a=1\n", capture_output=True, cwd=ROOT)
    forked = xlplug(*words, stdin=b"a=1\n")
    assert (done.returncode, done.stdout.decode(), done.stderr.decode()) == (
        forked.returncode, forked.stdout, forked.stderr,
    )  # fmt: skip


def test_grant_on_a_recorded_domain() -> None:
    done = xlplug("grant", "7", "--recorded", str(DOMAINS / "igd-laptop-stubdom"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "domain 7 would hold I/O Memory { a0-bf, 7a18d-7a18f } I/O Ports { 3b0-3bb, 3c0-3df }" in done.stdout
    assert "domain 8 would hold I/O Memory { a0-cf, 7a18d-7a18f } I/O Ports { 3b0-3bb, 3c0-3df }" in done.stdout
    assert done.stdout.count("grant ") == 8


def test_dry_run_prints_the_same_steps() -> None:
    folder = str(DOMAINS / "igd-laptop")
    done, dry = xlplug("grant", "7", "--recorded", folder), xlplug("grant", "7", "--recorded", folder, "--dry-run")
    steps = [line.replace(" domid=7", "") for line in done.stdout.splitlines() if line.startswith("grant")]
    plan = xlplug("plan", f"{folder}/domain.cfg", "--host", f"{folder}/host.json", "--target", "7").stdout.splitlines()
    assert dry.stdout.splitlines() == [*plan, "dry run: nothing was changed"], "what 'plan' prints"
    shown = [" ".join(line.split()).replace(" domid=7", "") for line in plan if line.startswith("  grant ")]
    assert [line for line in shown if not line.startswith(tuple(steps))] == []
    assert len(shown) == len(steps)
    as_json = xlplug("grant", "7", "--recorded", folder, "--dry-run", "--format", "json")
    jsonschema.validate(json.loads(as_json.stdout), json.loads((ROOT / "docs" / "plan.schema.json").read_text()))


def test_a_domain_by_its_name() -> None:
    folder = str(DOMAINS / "igd-laptop-stubdom")
    by_name = xlplug("grant", load_domain(folder).name, "--recorded", folder)
    assert by_name.stdout == xlplug("grant", "7", "--recorded", folder).stdout
    assert by_name.returncode == 0


def test_grant_as_json() -> None:
    done = xlplug("grant", "7", "--recorded", str(DOMAINS / "igd-laptop-stubdom"), "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    made = json.loads(done.stdout)
    jsonschema.validate(made, json.loads((ROOT / "docs" / "grant.schema.json").read_text()))
    assert (made["target"], made["stubdom"], len(made["done"]), made["already"]) == (7, 8, 8, [])
    assert made["done"][0]["text"] == "grant stubdom domid=8 iomem a0-cf"


def test_show_and_revoke(capsys: pytest.CaptureFixture[str]) -> None:
    """On a hypervisor in memory: the real ones are the lab's."""
    xen, store = MemXen((4, 17)), MemStore()
    xen.add_domain(DomainInfo(7))
    held = RangeSet([(0xA0, 0xC0)])
    store.write("/libxl/7/xlplug/steps/000", "iomem_permission target 7 a0 20 - - - -")
    store.write("/libxl/7/xlplug/state", "applied")
    store.write("/libxl/7/xlplug/handle", "")
    store.write("/local/domain/7", "")
    rows = compare(7, xen.held(), store)
    made = show.show_json([(7, rows)])
    jsonschema.validate(made, json.loads((ROOT / "docs" / "show.schema.json").read_text()))
    [domain] = made["domains"]
    assert (domain["target"], domain["state"]) == (7, "applied")
    assert domain["rights"][0]["missing"] == [{"first": 0xA0, "count": 0x20}]
    assert f"MISSING            {held}  run 'xlplug grant' again" in "\n".join(show.comparison_lines(rows))
    steps = [plan.step_json(step) for step in grants.revoke(7, xen, store, lambda _: None)]
    revoked = {"schema": "xlplug/revoke/1", "target": 7, "revoked": steps}
    jsonschema.validate(revoked, json.loads((ROOT / "docs" / "revoke.schema.json").read_text()))
    assert len(steps) == 1


def test_the_plan_follows_its_published_schema() -> None:
    schema = json.loads((ROOT / "docs" / "plan.schema.json").read_text())
    valid = jsonschema.validators.validator_for(schema)(schema)
    for host in sorted(HOSTS.glob("*.json")):
        done = xlplug("plan", EXAMPLE, "--host", str(host), "--format", "json", "--map-legacy")
        plan = json.loads(done.stdout)
        valid.validate(plan)
        assert done.returncode == (1 if plan["refusals"] else 0)
        if plan["steps"] and "igd-laptop" in host.name:
            assert {s["op"] for s in plan["steps"]} == {
                "iomem_permission", "ioport_permission", "memory_mapping", "ioport_mapping",
            }  # fmt: skip


def test_plan_text_is_the_golden_one(request: pytest.FixtureRequest) -> None:
    done = xlplug("plan", EXAMPLE, "--host", str(HOSTS / "igd-laptop.json"))
    golden = ROOT / "tests" / "recorded" / "plans" / "igd-laptop.txt"
    assert done.stdout == golden.read_text(), f"if the change is meant: xlplug plan … >{golden}"


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict", "latin-1:strict"])
def test_names_that_no_terminal_should_see(tmp_path: Path, encoding: str) -> None:
    """Escape sequences, right-to-left marks, bytes that are not UTF-8, in a config's name and path: no traceback, no colour."""
    path = tmp_path / os.fsdecode(b"g\xff\x1b[2J.cfg")
    path.write_bytes(b'name="g\xff\x1b[31m\xe2\x80\xae"\ntype="hvm"\n')
    host = str(HOSTS / "igd-laptop.json")
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    for words in (["plan", str(path), "--host", host], ["map", str(path), "--host", host], ["doctor", str(path)],
                  ["hook", "status", str(path)], ["plan", f"{path}.none"]):  # fmt: skip
        done = CHECKOUT.run(*words, env=env)
        said = done.stdout + done.stderr
        assert b"Traceback" not in said, said.decode(errors="replace")
        assert b"\x1b" not in said
        assert b"\xe2\x80\xae" not in said


def test_extra_settings_are_appended() -> None:
    done = xlplug("plan", EXAMPLE, "gfx_passthru=0", "--host", str(HOSTS / "igd-laptop.json"), "--format", "json")
    assert json.loads(done.stdout)["steps"] == []


def test_config_prints_a_json_object_a_line(tmp_path: Path) -> None:
    good, bad, deep = tmp_path / "good", tmp_path / "bad", tmp_path / "deep"
    good.write_bytes(b'a="\xff\xc3\xa9"\nb=[1,[2]]\n')
    bad.write_bytes(b"a=1\nb=0xFF\n")
    deep.write_bytes(b"a=" + b"[" * 4000 + b"]" * 4000)
    done = xlplug("config", str(good), str(bad), "/nonexistent", str(deep), "-", stdin=b"c=1")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert json.loads(lines[0]) == {"file": str(good), "settings": {"a": "\udcffé", "b": ["1", ["2"]]}}
    error = json.loads(lines[1])["error"]
    assert (error["line"], error["column"]) == (2, 5)
    assert "lower case" in error["advice"]
    assert "No such file" in json.loads(lines[2])["error"]["message"]
    assert lines[3].count("[") == 4000
    assert json.loads(lines[4]) == {"file": "-", "settings": {"c": "1"}}
    assert xlplug("config", str(good)).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["grant", "7", "--recorded", "/nonexistent"], 1, "no such file"),
        (["grant", "8", "--recorded", str(DOMAINS / "igd-laptop")], 1, "is of domain 7 (gpu), not 8"),
        (["grant", "0", "--recorded", str(DOMAINS / "igd-laptop")], 2, "is dom0"),
        (["grant", "seven", "--recorded", str(DOMAINS / "igd-laptop")], 1, "(gpu), not seven"),
        (["grant", "99999", "--recorded", str(DOMAINS / "igd-laptop")], 2, "give one from 1 to 32751"),
        (["revoke", "9" * 5000], 2, "is not a domid"),
        (["show", "0"], 2, "is dom0"),
        (["plan", EXAMPLE, "--target", "0", "--host", str(HOSTS / "igd-laptop.json")], 2, "is dom0"),
        (["grnat"], 2, "Did you mean 'grant'? See 'xlplug --help'"),
        (["grant", "7", "--recorded"], 2, "requires an argument; see 'xlplug grant --help' [XLP800]"),
        (["hook", "instal"], 2, "No such command 'instal'. Did you mean 'install'? See 'xlplug hook --help'"),
        (["help", "grnat"], 2, "Did you mean 'grant'?"),
        (["doctor", "--strct"], 2, "See 'xlplug doctor --help'"),
        (["grant", "7", "--recorded", str(DOMAINS / "igd-laptop"), "--config", "/nonexistent"], 1, "No such file"),
        (["grant", "7", "--recorded", str(DOMAINS / "igd-laptop"), "--config", str(ROOT / "LICENSE")], 1, "LICENSE:"),
        (["grant", "7", "--recorded", str(ROOT)], 1, "host.json"),
        (["plan", EXAMPLE, "--host", EXAMPLE], 1, "not JSON"),
        (["plan", EXAMPLE, "--host", str(ROOT / "docs" / "plan.schema.json")], 1, "schema"),
        (["plan", EXAMPLE, "memory=512M", "--host", str(HOSTS / "igd-laptop.json")], 1, "command line:1:11"),
        (["plan", EXAMPLE, 'pci=["nonsense"]', "--host", str(HOSTS / "igd-laptop.json")], 1, "write it as 00:02.0"),
        (["plan", EXAMPLE, "type='vax'", "--host", str(HOSTS / "igd-laptop.json")], 1, 'write "hvm"'),
        (["plan", EXAMPLE, "--target", "x", "--host", str(HOSTS / "igd-laptop.json")], 2, "is not a domid"),
        (["plan", "/nonexistent"], 1, "No such file"),
        (["plan"], 2, "Missing argument"),
        (["grant"], 2, "Missing argument"),
        (["grant", "7", "--recorded"], 2, "requires an argument"),
        (["grant", "7", "8"], 2, "unexpected extra argument"),
        (["nonsense"], 2, "No such command"),
        (["config"], 2, "Missing argument"),
        (["record", "host", "-o", "/nonexistent/x"], 1, ""),
        (["dm", "7", "03:00"], 2, "dm: '03:00' is not a PCI address"),
        (["dm", "7", "03:00.0", "04:00.0", "--vslot", "5"], 2, "--vslot is for one device"),
    ],
)
def test_mistakes_get_one_line_and_their_exit_code(arguments: list[str], code: int, says: str) -> None:
    done = xlplug(*arguments)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("xlplug: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [(), ("grant",), ("hook", "status")])
def test_help_as_a_word(words: tuple[str, ...]) -> None:
    done = xlplug("help", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == xlplug(*words, "--help").stdout


def test_quiet_leaves_errors() -> None:
    plan = ("plan", EXAMPLE, "--host", str(HOSTS / "igd-laptop.json"))
    done = xlplug("-q", *plan)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = xlplug("-q", "plan", "/nonexistent")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert xlplug("-v", *plan).stdout == xlplug(*plan).stdout


def test_off_xen_it_says_so() -> None:
    if Path("/sys/hypervisor/type").exists() and Path("/sys/hypervisor/type").read_text().strip() == "xen":
        return  # covered by the lab's own tests
    for arguments in (["grant", "7"], ["revoke", "7"], ["show"], ["record", "domain", "7", "-o", "/tmp/x"]):
        done = xlplug(*arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("xlplug: this machine does not run on Xen; boot the Xen entry of the boot menu")
        assert ("--recorded" in done.stderr) == (arguments[0] == "grant"), "which alone has that option"


def test_the_quick_reader_agrees_with_click(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[grant.GrantOptions] = []
    monkeypatch.setattr(grant, "grant", lambda options: seen.append(options) or 0)
    words = [
        "7",
        "8",
        "--config",
        "--config=x",
        "a.cfg",
        "--recorded",
        "dir",
        "--recorded=d",
        "--dry-run",
        "--map-legacy",
        "--format",
        "json",
        "--format=text",
        "--format=xml",
        "--bad",
        "--",
        "-h",
        "",
        "--dry",
    ]
    rng = random.Random(3)
    agreed = 0
    for _ in range(3000):
        arguments = rng.choices(words, k=rng.randrange(1, 6))
        quick = fast_argv.grant_options(arguments)
        if quick is None:
            continue
        seen.clear()
        result = CliRunner().invoke(cli.main, ["grant", *arguments])
        assert result.exit_code == 0, (arguments, result.output)
        assert seen == [quick], arguments
        agreed += 1
    assert agreed > 100


def test_the_quick_help_is_click_s() -> None:
    shown = CliRunner().invoke(cli.main, ["--help"], prog_name="xlplug").output
    assert fast_help.TEXT.split() == shown.split(), (
        "write click's output of 'xlplug --help' into xlplug/commands/fast_help.py"
    )
    assert xlplug("--help").stdout == fast_help.TEXT
    assert xlplug("-h").stdout == fast_help.TEXT


def test_every_command_has_its_task_and_an_example() -> None:
    shown = {name for name, command in cli.main.commands.items() if not command.hidden}
    assert {name for names in TASKS.values() for name in names} == shown
    for name in shown:
        example = cli.main.commands[name].epilog or ""
        assert example.startswith(f"Example: xlplug {name}")
        words = example.split()[2:]
        command = cli.main
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        if not command.ignore_unknown_options:  # else xl's words
            command.make_context(command.name, words, resilient_parsing=False)


def test_version() -> None:
    assert xlplug("--version").stdout == "xlplug 0.1.0\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m xlplug plan {EXAMPLE} --host {HOSTS / 'igd-laptop.json'} | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith("Plan for domain gpu")
    assert done.stderr == ""


def test_the_readme_shows_real_output() -> None:
    text = (ROOT / "README.md").read_text()
    for command in (
        ["plan", "examples/domain.cfg", "--host", "tests/recorded/hosts/igd-laptop.json"],
        ["grant", "7", "--recorded", "tests/recorded/domains/igd-laptop-stubdom"],
    ):
        shown = "\n".join(f"    {line}".rstrip() for line in xlplug(*command).stdout.rstrip().splitlines())
        assert f"    $ xlplug {' '.join(command)}\n{shown}\n" in text


def test_a_plan_with_guest_ram(tmp_path: Path) -> None:
    """In the plan as text and as JSON, and done on a recorded domain."""
    text = (ROOT / "examples" / "domain.cfg").read_text().replace('vga = "none"', 'vga = "stdvga"')
    path = tmp_path / "domain.cfg"
    path.write_text(text.replace("xlplug_preload = 0", "xlplug_preload = 1"))
    host = str(HOSTS / "igd-laptop.json")
    lines = xlplug("plan", str(path), "--host", host).stdout.splitlines()
    assert [line.split() for line in lines if "populate" in line] == [
        ["populate", "target", "gfn", "7f000-7ffff", "video", "RAM"],
        ["populate", "target", "gfn", "80000-8000f", "option", "ROM", "of", "the", "stdvga", "card"],
    ]
    plan = json.loads(xlplug("plan", str(path), "--host", host, "--format", "json").stdout)
    jsonschema.validate(plan, json.loads((ROOT / "docs" / "plan.schema.json").read_text()))
    assert [s["count"] for s in plan["steps"] if s["op"] == "populate_physmap"] == [4096, 16]
    assert [note["what"] for note in plan["notes"]] == []
    without = xlplug("plan", str(path), "xlplug_preload=0", "--host", host)
    assert "  video RAM and option ROMs are left to the device model: xlplug_preload is not set" in without.stdout
    assert without.stderr == ""
    recorded = ROOT / "tests" / "recorded" / "domains" / "igd-laptop-stubdom"
    done = xlplug("grant", "7", "--recorded", str(recorded), "--config", str(path))
    assert done.returncode == 0
    assert "populate target domid=7 gfn 7f000-7ffff" in done.stdout.splitlines()


def test_devices_that_cannot_be_noted_do_not_change_how_a_grant_ended(capsys: pytest.CaptureFixture[str]) -> None:
    store = FaultyStore(xenstore(), Injector(Fault("store", 3, lasting=True)))
    grant._note_devices(PLAIN, WHO, "seven", store)  # type: ignore[arg-type] # for dom0 alone
    said = capsys.readouterr().err
    assert said.startswith("xlplug: warning: xenstore: cannot ")
    assert said.count("\n") == 1
