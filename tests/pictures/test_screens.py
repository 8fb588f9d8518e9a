# SPDX-License-Identifier: LGPL-2.1-only
"""Pages as a person sees them: headless Chromium at a laptop's and a phone's width, light and dark, against pictures of before.

Compared at an eighth of the size, so that another version of a font is not a difference and a column that is gone is one.
``XLPLUG_GOLDEN=1`` writes the pictures again; look at them before they are committed.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from tests.abi.oracle import require
from tests.unit.picture.test_picture import TWO, picture
from xlplug.picture.html import html
from xlplug.picture.svg import svg

GOLDEN = Path(__file__).parent / "golden"
WIDTHS = {"laptop": 1280, "phone": 390}
HEIGHT = 1900
SCHEMES = {"dark": 0, "light": 1}  # Chromium's mojom::PreferredColorScheme
#: Percent of the small picture's pixels that differ by 32 of 255.  Another font: 0.3; a column less: 3.5; one colour gone: 2.6.
_DIFFERENT = 1.0


def chromium() -> str:
    path = shutil.which("chromium")
    if path is None:
        require("pictures", "chromium is not installed")
    return str(path)


def shot(page: Path, width: int, scheme: str) -> Image.Image:
    out = page.with_suffix(f".{width}.{scheme}.png")
    profile = page.parent / "profile"
    subprocess.run(
        [
            chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1",
            f"--user-data-dir={profile}", f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
            f"--window-size={width},{HEIGHT}", f"--screenshot={out}", page.as_uri(),
        ],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return Image.open(out).convert("RGB")


def compared(image: Image.Image, name: str) -> None:
    small = image.resize((image.width // 8, image.height // 8), Image.Resampling.BOX)
    path = GOLDEN / f"{name}.png"
    if os.environ.get("XLPLUG_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        small.save(path, optimize=True)
    before = Image.open(path).convert("RGB")
    assert before.size == small.size
    counts = ImageChops.difference(before, small).convert("L").histogram()
    percent = 100 * sum(counts[32:]) / sum(counts)
    assert percent < _DIFFERENT, f"{name}: {percent:.1f} percent differ; look at it, then XLPLUG_GOLDEN=1"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("device", WIDTHS)
def test_page(device: str, scheme: str, tmp_path: Path) -> None:
    page = tmp_path / "map.html"
    # The stubdomain adds a column, which is narrow on a phone.
    page.write_text(html(picture() if device == "phone" else picture(TWO, "hybrid-nvidia")))
    image = shot(page, WIDTHS[device], scheme)
    # Nothing is wider than the window: what would be cut off would reach its right edge.
    edge = image.crop((image.width - 4, 0, image.width, image.height))
    assert edge.getcolors(1) is not None, "something reaches the edge of the window"
    compared(image, f"{device}-{scheme}")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_drawing(scheme: str, tmp_path: Path) -> None:
    page = tmp_path / "map.svg"
    page.write_text(svg(picture(TWO, "hybrid-nvidia")))
    compared(shot(page, 860, scheme), f"drawing-{scheme}")
