# SPDX-License-Identifier: LGPL-2.1-only
"""What the playbook of contrib/ansible runs on each host: nothing of it is outside the folder that is root's alone."""

import os
import subprocess
import tarfile
from pathlib import Path

PLAYBOOK = Path(__file__).parents[2] / "contrib" / "ansible" / "playbooks" / "audit.yml"
XLPLUG = """#!/bin/sh
while [ "$1" != -o ]; do shift; done
mkdir -p "$(dirname "$2")"
echo recorded >"$2"
"""


def test_all_that_is_gathered_stays_in_the_folder(tmp_path: Path) -> None:
    """Beside it, in /tmp, root would write to a file that somebody else has made, and everybody would read it."""
    script = PLAYBOOK.read_text().partition("cmd: |\n")[2].partition('        chdir: "{{ xlplug_folder.path }}"\n')[0]
    tmp, programs, secret = tmp_path / "tmp", tmp_path / "programs", tmp_path / "secret.cfg"
    folder = tmp / "ansible.x.xlplug"
    folder.mkdir(mode=0o700, parents=True)
    programs.mkdir()
    for name, text in (("xlplug", XLPLUG), ("xenstore-list", "#!/bin/sh\necho 7\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    secret.write_text("vncpasswd='x'\n")
    words = script.replace("{{ xlplug_configs }}", str(secret))
    env = {"PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(["/bin/sh", "-c", words], cwd=folder, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.listdir(tmp) == [folder.name]
    with tarfile.open(folder / "fleet.tar.gz") as archive:
        assert set(archive.getnames()) == {".", "./host.json", "./secret.cfg", "./domains", "./domains/7"}
