"""Embeddings as TensorBoard itself serves them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image

from evaluation.files import read_arrays
from evaluation.report.projector import write_projector
from evaluation.results.files import read_results, write_results


def test_tensorboard_serves_what_was_written(evaluation_folder: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
    from werkzeug.test import Client
    from werkzeug.wrappers import Response

    config = write_projector(evaluation_folder, tmp_path)
    assert config.parent == tmp_path
    multiplexer = EventMultiplexer()
    provider = MultiplexerDataProvider(multiplexer, str(tmp_path))
    context = TBContext(logdir=str(tmp_path), multiplexer=multiplexer, data_provider=provider)
    apps = ProjectorPlugin(context).get_plugin_apps()

    def get(route: str, **query: object) -> bytes:
        response = Client(apps[route], Response).get(f"{route}?{urlencode(query)}")
        assert response.status_code == 200, response.get_data()
        data: bytes = response.get_data()
        return data

    (run,) = json.loads(get("/runs"))
    served = json.loads(get("/info", run=run))["embeddings"]
    results = read_results(evaluation_folder)
    assert [item["tensorName"] for item in served] == [item.title for item in results.embeddings]
    position = read_arrays(evaluation_folder / "artifacts.npz")["sample_position"]
    for item in results.embeddings:
        data = np.frombuffer(get("/tensor", run=run, name=item.title), dtype=np.float32)
        expected = read_arrays(evaluation_folder / "embeddings" / f"{item.id}.npz")["test"]
        np.testing.assert_allclose(
            data.reshape(-1, item.dim), expected[position], rtol=1e-5, atol=1e-5
        )
    name = results.embeddings[0].title
    lines = get("/metadata", run=run, name=name).decode().splitlines()
    assert len(lines) == 1 + len(position)
    with Image.open(io.BytesIO(get("/sprite_image", run=run, name=name))) as sprite:
        assert sprite.size == (20 * 16, 20 * 16)


def test_a_folder_without_images_is_a_clear_error(evaluation_folder: Path, tmp_path: Path) -> None:
    write_results(tmp_path, read_results(evaluation_folder))
    with pytest.raises(ValueError, match="vae-dist evaluate"):
        write_projector(tmp_path, tmp_path / "log")
