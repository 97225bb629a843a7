"""The figures of `benchmarks.train` as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

NAMES = {
    "ours": "vae-dist, from memory",
    "ours_stream": "vae-dist, from a stream",
    "bare": "bare PyTorch loop",
    "bare_compiled": "bare loop, torch.compile",
    "pythae": "pythae",
    "lightning": "Lightning",
    "article2018": "the 2018 program",
}
BEGIN, END = "<!-- bench train: begin -->", "<!-- bench train: end -->"


def speeds_table(found: dict[str, Any]) -> str:
    """Images a second of each loop, and how many times as fast this program is."""
    columns = found["speeds"]
    head = ["images/s"] + [f"{c['model']}, {c['batch_size']}" for c in columns]
    rows = [head, ["---"] + ["---:"] * len(columns)]
    for name, title in NAMES.items():
        cells = []
        for column in columns:
            figures = column["loops"].get(name)
            if figures is None:
                cells.append("")
                continue
            ratio = figures.get("ratio")
            times = "" if ratio is None or name == "ours" else f" ({ratio:.2f}x)"
            cells.append(f"{figures['images_per_second']:,.0f}{times}")
        if any(cells):
            rows.append([title, *cells])
    return _table(rows)


def step_table(found: dict[str, Any]) -> str:
    """What a step is made of."""
    rows = [["model, batch", "ms a step", "products alone", "calls", "launches", "share of time"]]
    rows.append(["---", "---:", "---:", "---:", "---:", "---"])
    for step in found["step"]:
        parts = sorted(step["share"].items(), key=lambda part: -part[1])
        rows.append(
            [
                f"{step['model']}, {step['batch_size']}",
                f"{1e3 * step['seconds']:.2f}",
                f"{1e3 * step['products_seconds']:.2f}",
                str(step["calls"]),
                str(step["launches"]),
                ", ".join(f"{name} {share:.0%}" for name, share in parts if share >= 0.01),
            ]
        )
    return _table(rows)


def scaling_table(found: dict[str, Any]) -> str:
    """Images a second by number of processes, of one thread each."""
    counts = list(found["scaling"][0]["ratio"])
    rows = [["model, batch", *(f"{n} process(es)" for n in counts)]]
    rows.append(["---"] + ["---:"] * len(counts))
    for one in found["scaling"]:
        cells = [
            f"{one['images_per_second'][n]:,.0f} ({one['ratio'][n]:.2f}x; "
            f"{one['expected_ratio'][n]:.2f}x)"
            for n in counts
        ]
        rows.append([f"{one['model']}, {one['batch_size']}", *cells])
    return _table(rows)


def document(found: dict[str, Any], command: str) -> str:
    """The whole page."""
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    where = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    parts = [
        "# Benchmarks",
        f"Made by `{command}` on {machine['date']}: {where}; {machine['threads']} threads, Python "
        f"{machine['python']}, {versions}.",
        "## Speed of training",
        "All loops train the same model with the same loss, each in a process of its own, and take "
        "turns in one run; medians. This program runs as it comes: a log line every ten steps, "
        "telemetry, TensorBoard, checkpoints; nobody's validation counts. In brackets: how many "
        "times as fast `vae-dist, from memory` is, the median of the ratios of neighbouring turns.",
        speeds_table(found),
        "## One step",
        "`products alone` is the time of the step's matrix products and convolutions by themselves; "
        "`calls` are those of ATen below autograd, `launches` those of them that compute."
        + (
            " All but the milliseconds are of the operations one by one, which the training repeats "
            "as a CUDA graph."
            if any(step.get("graph") for step in found["step"])
            else ""
        ),
        step_table(found),
    ]
    if found["scaling"]:
        one = found["scaling"][0]
        reductions = ", ".join(
            f"{1e3 * seconds:.2f} ms on {n}" for n, seconds in one["reduction_seconds"].items()
        )
        parts += [
            "## Scaling",
            "Whole trainings without TensorBoard, one thread a process. In brackets: how many times as fast as one "
            "process, and what `benchmarks/cost_model.py` expects from the step of one process and "
            f"from a reduction of {one['gradient_bytes']:,} bytes of gradients, measured alone: "
            f"{reductions}. Processes beyond the cores share them.",
            scaling_table(found),
        ]
    if found["missing"]:
        parts += ["## Not measured"]
        parts += ["\n".join(f"- {what}: {why}" for what, why in found["missing"].items())]
    return "\n\n".join(parts) + "\n"


def put_into(page: Path, table: str) -> bool:
    """Put a table between the marks of a page; False where it has none."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    if BEGIN not in text or END not in text:
        return False
    before, rest = text.split(BEGIN, 1)
    page.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")
    return True


def _table(rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
