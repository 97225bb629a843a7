"""The estimate of a step's memory, and the search for the largest micro-batch."""

import contextlib
import math

import pytest
import torch

from vae_dist.losses import LossConfig
from vae_dist.memory.estimate import (
    _control_group_room,
    activation_bytes,
    available_bytes,
    estimate,
    optimizer_states,
)
from vae_dist.memory.search import Probe, find_micro_batch
from vae_dist.models import ModelConfig, build_model
from vae_dist.objective import Objective

SHAPE = (1, 28, 28)


def objective(model_type: str = "fc", loss: str = "bce") -> Objective:
    model = build_model(ModelConfig(model_type=model_type), SHAPE, 10)
    return Objective(model, LossConfig(image_loss_type=loss))


def saved_bytes(module: Objective, images: int) -> int:
    """What a real forward pass makes autograd keep, without parameters and inputs."""
    held = {}

    def keep(tensor):
        held[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    x, labels = torch.rand(images, *SHAPE), torch.zeros(images, dtype=torch.int64)
    noise = torch.randn(images, 1, module.model.latent_size)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        terms = module(x, noise, labels)
    for term in filter(torch.is_tensor, terms):
        keep(term)
    known = {t.untyped_storage()._cdata for t in (x, labels, noise, *module.parameters())}
    return sum(s.nbytes() for key, s in held.items() if key not in known)


@pytest.mark.parametrize("model_type", ["fc", "fc_conv"])
@pytest.mark.parametrize("loss", ["bce", "mse", "ssim"])
def test_the_dry_run_counts_what_a_real_pass_keeps(model_type, loss):
    module = objective(model_type, loss)
    dry = activation_bytes(module, 64, SHAPE)
    real = saved_bytes(module, 64)
    assert real <= dry <= real + max(64 * 784 * 4 * 6, real)  # once more the largest
    assert activation_bytes(module, 128, SHAPE) == pytest.approx(2 * dry, rel=0.05)


def test_the_dry_run_makes_nothing_and_changes_nothing():
    module = objective()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert activation_bytes(module, 10**9, SHAPE) > 1e12  # no machine could hold this
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_the_dry_run_works_on_a_gpu_that_is_not_there():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.device("cuda"):
        module = objective()
    assert next(module.parameters()).device.type == "cuda"
    size = activation_bytes(module, 64, SHAPE)
    assert size == pytest.approx(activation_bytes(objective(), 64, SHAPE), rel=0.2)


def test_the_dry_run_sees_the_copies_that_autocast_makes():
    module = objective()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        real = saved_bytes(module, 256)
    dry = activation_bytes(module, 256, SHAPE, 1, "bf16")
    assert dry != activation_bytes(module, 256, SHAPE)
    assert real <= dry <= real + 256 * 784 * 4


@pytest.mark.parametrize("model_type", ["fc", "fc_conv", "fcn", "fcns", "fcns_1n", "conv"])
def test_every_model_has_a_dry_run(model_type):
    for settings in ({}, {"prior": "vamp"}, {"objective": "iwae", "importance_samples": 3}):
        model = build_model(ModelConfig(model_type=model_type, conditional=True), SHAPE, 10)
        module = Objective(model, LossConfig(**settings))
        assert activation_bytes(module, 8, SHAPE, 3 if "objective" in settings else 1, "bf16")


def test_an_operation_without_a_dry_run_leaves_the_activations_open():
    module = objective()
    encode = module.model.encode
    module.model.encode = lambda x, labels: encode(x * x.sum().item(), labels)
    need = estimate(module, image_shape=SHAPE, local_batch=8, global_batch=8)
    assert need.activations is None
    assert need.total is None
    assert "not known" in need.describe(10**9)


def test_the_estimate_adds_up_and_says_whether_it_fits():
    need = estimate(objective(), image_shape=SHAPE, local_batch=64, global_batch=128, accumulate=2)
    weights = sum(p.numel() for p in objective().parameters()) * 4
    assert need.gradients == weights
    assert need.optimizer == 2 * weights
    assert need.micro_batch == 32
    assert need.inputs == 64 * 784 * 5 + (128 + 64) * 10 * 4
    assert need.total == sum(
        (need.parameters, need.gradients, need.optimizer, need.inputs, need.activations)
    )
    assert need.as_dict()["total_bytes"] == need.total
    assert need.describe(need.total).endswith("fits")
    assert "WILL NOT FIT" in need.describe(need.total - 1)


def test_optimizers_keep_as_many_tensors_as_they_say():
    from vae_dist.train.optim import OptimConfig, build_optimizer

    for name, momentum in [("adam", 0), ("adamw", 0), ("sgd", 0), ("sgd", 0.9), ("rmsprop", 0.9)]:
        weight = torch.nn.Parameter(torch.ones(1000))
        optimizer = build_optimizer([weight], OptimConfig(optimizer=name, momentum=momentum), 64)
        weight.grad = torch.ones(1000)
        optimizer.step()
        kept = [v for v in optimizer.state[weight].values() if torch.is_tensor(v) and v.numel() > 1]
        assert len(kept) == optimizer_states(name, momentum), name


class Room:
    """Memory for that many images; remembers what was tried."""

    def __init__(self, images: int) -> None:
        self.images, self.tried = images, []

    def __call__(self, images: int) -> None:
        self.tried.append(images)
        if images > self.images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


@pytest.mark.slow
@pytest.mark.parametrize(("room", "largest"), [(2, 7), (1, 256), (33, 50), (300, 500), (999, 500)])
def test_the_micro_batch_grows_to_the_largest_that_fits(room, largest):
    probe = Room(room)
    found = find_micro_batch(probe, largest)
    best = min(room, largest)
    assert found <= best
    assert found >= best * 7 // 8 if best >= 32 else found >= max(best // 2, 1)
    assert len(probe.tried) < 20
    assert max(probe.tried) <= largest


@pytest.mark.slow
def test_no_room_for_one_image_is_said():
    with pytest.raises(MemoryError, match="not even one image"):
        find_micro_batch(Room(0), 64)


def test_an_error_of_another_kind_is_not_taken_for_memory():
    def probe(images):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        find_micro_batch(probe, 64)


def test_a_probe_leaves_no_trace():
    module = objective("fc_conv")
    module.model.register_buffer("seen", torch.zeros(()))
    module.model.register_forward_pre_hook(lambda *_: None)
    encode = module.model.encode

    def counting(x, labels):
        module.model.seen += len(x)
        return encode(x, labels)

    module.model.encode = counting
    before = {name: value.clone() for name, value in module.state_dict().items()}
    need = estimate(module, image_shape=SHAPE, local_batch=64, global_batch=64)
    Probe(module, need, SHAPE, 1, contextlib.nullcontext)(64)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_on_the_cpu_what_would_not_fit_is_refused_before_the_kernel_kills():
    module = objective()
    room = available_bytes(torch.device("cpu"))
    need = estimate(module, image_shape=SHAPE, local_batch=10**9, global_batch=10**9)
    assert need.total > room
    probe = Probe(module, need, SHAPE, 1, contextlib.nullcontext)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        probe(10**9)


def test_the_tightest_control_group_counts(tmp_path):
    for folder, limit, used, cache in ((tmp_path, "max", 900, 0), (tmp_path / "job", 500, 450, 30)):
        folder.mkdir(exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cache}\n")
    step = tmp_path / "job" / "step"
    step.mkdir()
    assert min(_control_group_room(step)) == 80
    assert min(_control_group_room(tmp_path / "none")) == math.inf


def test_checkpointing_is_counted_with_the_block_that_is_computed_again():
    needs = {}
    for again in (False, True):
        settings = ModelConfig(model_type="conv", conv_width=8, checkpoint_activations=again)
        module = Objective(build_model(settings, SHAPE, 10), LossConfig())
        dry, real = activation_bytes(module, 8, SHAPE), saved_bytes(module, 8)
        assert real < dry
        if not again:
            assert dry < 1.3 * real
        needs[again] = dry, real
    (dry_plain, real_plain), (dry, real) = needs[False], needs[True]
    map_bytes = 8 * 8 * 28 * 28 * 4  # 8 images, 8 channels: a full-size block keeps several
    assert dry - real > 4 * map_bytes
    assert dry < 0.8 * dry_plain
    assert real < real_plain
