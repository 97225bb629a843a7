"""How far an evaluation is, as the terminal shows it."""

import io
import re

from evaluation.stages import Stages
from launch.evaluate import Progress


def test_each_stage_is_one_line_with_its_place_and_seconds():
    """A warning leaves whole lines, a stage within a stage is part of it, and the total stays."""
    stream = io.StringIO()
    tell = Progress(stream)
    stages = Stages(tell=tell)
    stages.plan(4)
    with stages.stage("pca"):
        assert stream.getvalue() == "  [1/4] fitting PCA …"  # seen while it works
    with stages.stage("pictures", "run"), stages.stage("umap", "umap"):
        tell("warning: slow")
    stages.plan(1)  # the cache had the rest
    with stages.stage("measure", "pca-2", "cache"):
        pass
    lines = re.sub(r"\d+\.\d s", "N s", stream.getvalue()).splitlines()
    assert lines == [
        "  [1/4] fitting PCA … N s",
        "  [2/4] drawing images of run …",
        "  warning: slow",
        "  [2/4] drawing images of run … N s",
        "  [4/4] measuring pca-2 … N s, from the cache",
    ]
