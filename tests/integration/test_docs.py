"""The documentation: what is marked runnable runs, and every page is in the site's menu."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from launch.cli import main

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
RUNNABLE = re.compile(r"<!-- runnable -->\s*```(?:bash)?\n(.*?)```", re.S)
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in [ROOT / "README.md", *PAGES]
    for number, block in enumerate(RUNNABLE.findall(page.read_text(encoding="utf-8")))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_runnable_block_runs(block: str, tmp_path: Path, monkeypatch) -> None:
    """Line by line, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            assert words[0] == "vae-dist", f"{line}: only vae-dist lines can be marked runnable"
            assert main(words[1:]) == 0, line


def test_there_are_runnable_blocks() -> None:
    assert BLOCKS


def test_every_page_is_in_the_menu() -> None:
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = {page for section in menu for pages in section.values() for page in pages}
    assert listed == {page.name for page in PAGES}


def test_links_between_pages_lead_somewhere() -> None:
    """Also from the README and the contributing guide, which the site does not hold."""
    link = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]:
        for target in link.findall(page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
