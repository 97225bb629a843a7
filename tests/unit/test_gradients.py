"""Gradients that are written down, against autograd of the plain formulas, in fp64."""

import math

import pytest
import torch
from torch.nn import functional as F

from vae_dist.gradients import Bernoulli, Gaussian, Posterior, Squeeze, StandardKL


def plain_bernoulli(logits, images):
    return F.binary_cross_entropy_with_logits(logits, images, reduction="none").flatten(1).sum(1)


def plain_gaussian(logits, images, log_sigma):
    squares = (torch.sigmoid(logits) - images).square().flatten(1).sum(1)
    constant = log_sigma + 0.5 * math.log(2 * math.pi)
    return 0.5 * squares * torch.exp(-2 * log_sigma) + math.prod(images.shape[1:]) * constant


def plain_kl(mu, logvar):
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)


def plain_squeeze(x):
    inner = x.clamp(-10, 10)
    return inner + 5 * torch.tanh((x - inner) / 5)


def squeeze(x):
    return Squeeze.apply(x, 10.0, 5.0)


def inputs(name, shape, dtype, scale=3.0):
    generator = torch.Generator().manual_seed(2)
    first = scale * torch.randn(shape, generator=generator, dtype=dtype)
    second = torch.rand(shape, generator=generator, dtype=dtype)
    many = {
        "bernoulli": (first, second),
        "gaussian": (first, second, torch.tensor(-1.3, dtype=dtype)),
        "kl": (first, second - 2),
        "squeeze": (5 * first,),
    }[name]
    return tuple(t.requires_grad_(t is not second) for t in many)


PAIRS = {
    "bernoulli": (Bernoulli.apply, plain_bernoulli),
    "gaussian": (Gaussian.apply, plain_gaussian),
    "kl": (StandardKL.apply, plain_kl),
    "squeeze": (squeeze, plain_squeeze),
}
SHAPES = [(3, 1, 4, 5), (2, 3, 7, 1), (1, 1, 1, 97), (0, 1, 2, 2)]  # 97 is prime


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_the_formula(name, shape):
    ours, plain = PAIRS[name]
    arguments = inputs(name, shape, torch.float64)
    results = [f(*arguments) for f in (ours, plain)]
    torch.testing.assert_close(*results)
    weights = torch.arange(1.0, results[0].numel() + 1).double().view(results[0].shape)
    wanted = [a for a in arguments if a.requires_grad]
    torch.testing.assert_close(*(torch.autograd.grad((r * weights).sum(), wanted) for r in results))


@pytest.mark.parametrize("name", PAIRS)
def test_gradcheck(name):
    assert torch.autograd.gradcheck(PAIRS[name][0], inputs(name, (2, 1, 3, 4), torch.float64))


@pytest.mark.parametrize("name", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("scale", [0.01, 3.0, 40.0, 1e4])
def test_fp32_is_as_good_as_the_formula_in_fp32(name, scale):
    """Also for logits at which a probability is 0 or 1 in fp32."""
    ours, plain = PAIRS[name]
    narrow = inputs(name, (16, 1, 28, 28), torch.float32, scale)
    wide = [t.detach().double() for t in narrow]
    torch.testing.assert_close(ours(*narrow).double(), plain(*wide), rtol=2e-6, atol=1e-3)
    grads = torch.autograd.grad(ours(*narrow).sum(), narrow[0])[0]
    assert grads.isfinite().all()


@pytest.mark.parametrize("name", PAIRS)
def test_one_tensor_of_the_images_size_is_kept(name):
    """What is saved for the gradient is what a large batch needs memory for."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()), lambda _: None):
        PAIRS[name][0](*inputs(name, (8, 1, 28, 28), torch.float32))
    limit = 1 if name != "kl" else 2
    assert sum(size == 8 * 784 for size in kept) <= limit
    assert sum(kept) < (limit + 0.01) * 8 * 784


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_works_under_compile_without_a_graph_break(name):
    arguments = inputs(name, (4, 1, 6, 6), torch.float32)
    compiled = torch.compile(PAIRS[name][0], fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), PAIRS[name][0](*arguments))
    result = compiled(*arguments).sum()
    expected = torch.autograd.grad(PAIRS[name][0](*arguments).sum(), arguments[0])
    torch.testing.assert_close(torch.autograd.grad(result, arguments[0]), expected)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_samples_and_kl_have_the_gradients_of_their_formula(samples, dtype):
    """And without the value the same gradients, bit for bit."""
    generator = torch.Generator().manual_seed(4)
    mu, logvar, noise, weights = (
        torch.randn(5, samples, 4, generator=generator, dtype=dtype) for _ in range(4)
    )
    mu, logvar = (t[:, 0].clone().requires_grad_() for t in (mu, logvar))

    def results(value):
        yield Posterior.apply(mu, logvar, noise, value)
        yield mu[:, None] + noise * torch.exp(0.5 * logvar)[:, None], plain_kl(mu, logvar)

    def gradients(z, kl):
        return torch.autograd.grad((z * weights).sum() + (kl * weights[:, 0]).sum(), (mu, logvar))

    ours, plain = results(True)
    torch.testing.assert_close(ours, plain)
    found, wanted = gradients(*ours), gradients(*plain)
    torch.testing.assert_close(found, wanted)
    for one, other in zip(found, gradients(*next(results(False))), strict=True):
        assert torch.equal(one, other)
