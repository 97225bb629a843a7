"""The page that ``vae-dist bench train`` writes, and the README's table."""

from pathlib import Path

from benchmarks.train_report import BEGIN, END, document, put_into, speeds_table

ROOT = Path(__file__).parents[2]
FOUND = {
    "machine": {
        "cpu": "some CPU",
        "cores": 2,
        "threads": 1,
        "gpu": None,
        "python": "3.11",
        "versions": {"torch": "2"},
        "date": "2026-01-01",
    },
    "speeds": [
        {
            "model": "fc",
            "batch_size": 64,
            "loops": {
                "ours": {"images_per_second": 3000.0, "ratio": 1.0},
                "bare": {"images_per_second": 1500.0, "ratio": 2.0},
            },
        }
    ],
    "step": [],
    "scaling": [
        {
            "model": "fc",
            "batch_size": 64,
            "images_per_second": {1: 3000.0, 2: 5100.0},
            "ratio": {1: 1.0, 2: 1.7},
            "expected_ratio": {1: 1.0, 2: 1.8},
            "reduction_seconds": {1: 0.0, 2: 0.001},
            "gradient_bytes": 4096,
        }
    ],
    "missing": {"pythae": "not installed"},
}


def test_the_page_has_what_was_measured_and_what_was_not():
    page = document(FOUND, "vae-dist bench train")
    for part in (
        "| bare PyTorch loop | 1,500 (2.00x) |",
        "| fc, 64 | 3,000 (1.00x; 1.00x) | 5,100 (1.70x; 1.80x) |",
        "4,096 bytes of gradients, measured alone: 0.00 ms on 1, 1.00 ms on 2",
        "- pythae: not installed",
    ):
        assert part in page


def test_the_table_takes_the_place_of_the_one_in_the_readme(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text((ROOT / "README.md").read_text())
    before, after = readme.read_text().split(BEGIN)[0], readme.read_text().split(END)[1]
    for _ in range(2):
        assert put_into(readme, speeds_table(FOUND))
    assert readme.read_text() == f"{before}{BEGIN}\n{speeds_table(FOUND)}\n{END}{after}"
    (tmp_path / "other.md").write_text("no marks")
    assert not put_into(tmp_path / "other.md", "table")
