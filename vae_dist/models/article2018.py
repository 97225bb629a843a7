"""Weights of the 2018 article's checkpoints (its ``.pth.tar`` files hold ``state_dict``)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from data_pipeline.errors import UserError

_LAYERS = ("fc1", "fc21", "fc22", "fc3", "fc4")


def import_article2018_state(
    state_dict: Mapping[str, Tensor], model_type: str
) -> dict[str, Tensor]:
    """Weights of the 2018 article's ``fc`` or ``fc_conv``, as our model of that name holds them.

    Names and shapes are the 2018 article's: ``fc`` linear weights (out, in); ``fc_conv`` weights
    fc1 (32, 1, 28, 28), fc21 and fc22 (z, 32, 1, 1), fc3 (z, 118, 1, 1) and
    fc4 (118, 1, 28, 28). So its Adam moments, kept in the order of these parameters, need
    no conversion either. What is done here: the prefix of a DataParallel model is dropped
    and the set of names and the number of dimensions are checked.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        ``torch.load(path, weights_only=True)["state_dict"]``.
    model_type : str
        ``fc`` or ``fc_conv``.

    Returns
    -------
    dict
        For ``load_state_dict`` of ``build_model(ModelConfig(model_type=model_type, ...))``.
    """
    dimensions = {"fc": 2, "fc_conv": 4}.get(model_type)
    if dimensions is None:
        raise UserError(
            f"--model-type {model_type}: of the 2018 program's checkpoints only those"
            " of fc and fc_conv can be read, the models that it could train"
        )
    state = {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}
    wanted = {f"{layer}.{part}" for layer in _LAYERS for part in ("weight", "bias")}
    if set(state) != wanted:
        odd = ", ".join(sorted(set(state) ^ wanted))
        raise UserError(
            f"not a checkpoint of the 2018 article's {model_type}: names differ in {odd}"
        )
    if state["fc1.weight"].ndim != dimensions:
        other = "fc_conv" if model_type == "fc" else "fc"
        raise UserError(
            f"this checkpoint of the 2018 program holds {other}: give --model-type {other}"
        )
    return state


def article2018_model(state_dict: Mapping[str, Tensor]) -> tuple[str, int]:
    """Model type and latent size of a seed checkpoint's ``state_dict``."""
    state = {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}
    if "fc1.weight" not in state or "fc21.weight" not in state:
        raise UserError(
            "not a checkpoint of the 2018 article's fc or fc_conv: fc1 or fc21 is missing"
        )
    model_type = "fc" if state["fc1.weight"].ndim == 2 else "fc_conv"
    return model_type, state["fc21.weight"].shape[0]
