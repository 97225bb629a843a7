"""Random numbers by position: known answers, distribution, independence of the split."""

import hashlib
import math
import os

import numpy as np
import pytest
import torch

from data_pipeline import philox
from data_pipeline.batch import Batch
from data_pipeline.philox import WORD, Draws, normal, uniform

CPU = torch.device("cpu")

KNOWN = [  # kat_vectors of Random123: counter, key, answer
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


def batch(positions, step=0, epoch=0, device=CPU):
    position = torch.as_tensor(positions, dtype=torch.int64)
    images = torch.zeros(len(position), 1, 1, 1, device=device)
    return Batch(images, position, position, position, size=10_000, epoch=epoch, step=step)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_known_answers(counter, key, answer):
    counter, key, answer = ([int(w, 16) for w in text.split()] for text in (counter, key, answer))
    words = philox.philox(tuple(torch.tensor([w]) for w in counter), tuple(key))
    assert [int(w) for w in words] == answer


def test_a_draw_follows_from_its_counter_alone():
    """Any split of the batch, any step order, one step or many ahead: the same bits."""
    whole = Draws(3, "noise", 6, CPU)
    expected = {s: whole(batch(range(40), s)) for s in range(70)}
    for positions in (range(13), range(13, 40), [3, 39, 8]):
        part = Draws(3, "noise", 6, CPU)
        for step in (0, 1, 69, 5, 40):
            rows = torch.as_tensor(positions)
            assert torch.equal(part(batch(positions, step)), expected[step][rows])
    small = Draws(3, "noise", 6, CPU)
    small._room = 16  # many pieces
    assert torch.equal(small(batch(range(40), 2)), expected[2])
    fewer = Draws(3, "noise", 3, CPU)  # columns do not depend on how many there are
    assert torch.equal(fewer(batch(range(40), 2)), expected[2][:, :3])
    assert whole(batch([])).shape == (0, 6)


def test_seed_purpose_epoch_step_position_and_column_matter():
    base = Draws(3, "noise", 8, CPU)(batch(range(9)))
    assert base.unique().numel() == 72
    for other in (
        Draws(4, "noise", 8, CPU)(batch(range(9))),
        Draws(3, "augment", 8, CPU)(batch(range(9))),
        Draws(3, "noise", 8, CPU)(batch(range(9), epoch=1)),
        Draws(3, "noise", 8, CPU)(batch(range(9), step=1)),
        Draws(3, "noise", 8, CPU)(batch(range(1, 10))),
    ):
        assert not (base == other).any()


def drawn(count, first=0):
    """That many words, of consecutive counters."""
    position = torch.arange(first, first + count // 4)
    counter = (position, *(torch.tensor([i]) for i in (0, 7, 1)))
    return torch.stack(philox.philox(counter, (1, 2)), -1).flatten()


def assert_normal(values):
    """Mean, variance, skewness, kurtosis, tails and Kolmogorov-Smirnov, each within 4.5 sigma."""
    count = values.numel()
    values = values.double()
    moments = [values.pow(k).mean().item() for k in (1, 2, 3, 4)]
    for found, expected, variance in zip(moments, (0, 1, 0, 3), (1, 2, 15, 96), strict=True):
        assert abs(found - expected) < 4.5 * math.sqrt(variance / count)
    for bound in (1, 2, 3, 4, 4.5):
        p = math.erfc(bound / math.sqrt(2)) / 2
        for side in (values > bound, values < -bound):
            assert abs(side.sum() - count * p) < 4.5 * math.sqrt(count * p) + 1
    ordered = values.sort().values
    cdf = 0.5 * torch.erfc(-ordered / math.sqrt(2))
    steps = torch.arange(count + 1).double() / count
    distance = max((cdf - steps[:-1]).max(), (steps[1:] - cdf).max())
    assert distance * math.sqrt(count) < 1.95  # p = 0.001


def test_normals_are_normal():
    """DRAWS=10000000 takes longer, and holds too."""
    count = int(os.environ.get("DRAWS", 1_000_000))
    pieces = [normal(drawn(100_000, i * 25_000)) for i in range(count // 100_000)]
    assert_normal(torch.cat(pieces))


def test_quantiles_are_those_of_the_normal_distribution_far_into_the_tails():
    special = pytest.importorskip("scipy.special")
    word = torch.cat([torch.arange(4096), drawn(1 << 16), WORD - torch.arange(4096)])
    tail = ((word | 1).double() / 2**33).numpy()
    expected = -special.ndtri(tail) * np.where(word.numpy() & 1, -1, 1)
    assert np.abs(normal(word).numpy() - expected).max() < 3e-6
    assert normal(torch.tensor([0])) == pytest.approx(6.34, abs=0.01)


def test_uniforms():
    values = uniform(drawn(1 << 18))
    assert uniform(torch.tensor([0, WORD])).tolist() == [0.0, 1 - 2.0**-24]
    assert values.mean() == pytest.approx(0.5, abs=4.5 / math.sqrt(12 << 18))
    assert values.var() == pytest.approx(1 / 12, rel=0.01)


def test_the_bits_are_these():
    """The same on every machine, torch version and device; a fused multiply-add changes nothing."""
    words = drawn(1 << 16)
    values = normal(words)
    assert hashlib.sha256(values.numpy().tobytes()).hexdigest()[:16] == "4d1e874a23785c58"
    start, slope = philox._quantiles(CPU)
    cell = ((words | 1).double().view(torch.int64) >> 44) - (1023 << 8) + (words & 1) * philox.CELLS
    within = ((words | 1).double().view(torch.int64) >> 31) & 0x1FFF | 1
    fused = slope[cell].double() * within + start[cell].double()  # one rounding, as fma has
    assert torch.equal(fused.float(), values)


def test_on_another_device():
    noise = Draws(3, "noise", 10, torch.device("meta"))(batch(range(7), device="meta"))
    assert noise.shape == (7, 10)
    assert noise.device.type == "meta"
