"""What a release needs agrees: version, CHANGELOG, citation, tag."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GITHUB = ROOT / ".github"


def release_notes(tag: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, GITHUB / "release_notes.py", tag]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_citation_has_the_version_and_the_license() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["title"] == PROJECT["name"]


def test_a_tag_needs_its_version_and_its_section() -> None:
    done = release_notes(f"v{PROJECT['version']}")
    assert done.returncode == 0, done.stderr
    section = (ROOT / "CHANGELOG.md").read_text().split(f"## {PROJECT['version']}")[1]
    assert done.stdout.strip() == section.split("\n## ")[0].split("\n", 1)[1].strip()
    wrong = release_notes("v99.0.0")
    assert wrong.returncode != 0
    assert "pyproject.toml says version" in wrong.stderr


@pytest.mark.parametrize("file", sorted(GITHUB.rglob("*.yml")), ids=lambda file: file.name)
def test_the_files_for_github_are_yaml(file: Path) -> None:
    """A template needs a name and a body, a workflow a job."""
    held = yaml.safe_load(file.read_text())
    assert {"blank_issues_enabled"} <= set(held) or {"name"} <= set(held)
    assert {"body", "jobs", "blank_issues_enabled"} & set(held)
