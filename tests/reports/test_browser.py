"""The report in a real browser: it renders at desk and phone width, without an error and without sideways scrolling."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.parts.evaluation_files import run_stage, write_evaluation

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
MORE = "--disable-component-update --disable-sync --virtual-time-budget=4000 --enable-logging=stderr"
# Headless windows are at least 500 pixels wide, so a phone is a frame in one.
FRAME = """<!doctype html><body style="margin:0">
<iframe id="page" src="robustness.html" width="{width}" height="900"></iframe>
<script>onload = () => {{
  const page = document.getElementById("page").contentDocument.documentElement;
  const drawings = page.querySelectorAll("svg").length;
  document.title = `wide ${{page.scrollWidth}} of ${{page.clientWidth}} drawings ${{drawings}}`;
}}</script>"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    write_evaluation(tmp_path, 120, 4)
    run_stage(tmp_path, 4)
    return tmp_path / "reports" / "robustness.html"


def browse(page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(CHROMIUM), *QUIET.split(), *MORE.split(), f"--user-data-dir={profile}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.parametrize("width", [400, 1280])
def test_page_fits_and_draws(page, tmp_path, width):
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.format(width=width), encoding="utf-8")
    done = browse(
        frame, tmp_path / "profile", "--dump-dom", "--allow-file-access-from-files", "--window-size=1400,1000"
    )
    found = re.search(r"wide (\d+) of (\d+) drawings (\d+)", done.stdout)
    assert found, done.stdout[-500:]
    wide, inner, drawings = map(int, found.groups())
    assert wide <= inner and drawings >= 10
    assert "CONSOLE" not in done.stderr, done.stderr


def test_what_is_folded_is_printed(page, tmp_path):
    folded = page.with_name("folded.html")
    html = page.read_text(encoding="utf-8")
    assert "details::details-content {" in html
    folded.write_text(html.replace("details::details-content {", "unknown {"), encoding="utf-8")
    pages = []
    for file in (page, folded):
        paper = tmp_path / f"{file.stem}.pdf"
        browse(file, tmp_path / "profile", f"--print-to-pdf={paper}", "--no-pdf-header-footer")
        pages.append(len(re.findall(rb"/Type /Page\b", paper.read_bytes())))
    assert pages[0] >= pages[1] + 2 > 2


def test_screenshot_is_not_blank(page, tmp_path):
    picture = tmp_path / "page.png"
    browse(page, tmp_path / "profile", f"--screenshot={picture}", "--window-size=1280,1600")
    # A blank page of this size compresses to some 10 kB.
    assert picture.stat().st_size > 60_000
