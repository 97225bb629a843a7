"""Code of others: what installed packages add by entry points, and objects by ``module:name``.

A package adds to one of the groups ``vae_dist.models``, ``vae_dist.embeddings``,
``vae_dist.metrics`` and ``vae_dist.sources`` in its ``pyproject.toml``::

    [project.entry-points."vae_dist.models"]
    my_vae = "my_package.my_module:MyVAE"

Nothing is imported before it is used. A name of vae-dist's own always means vae-dist's own.
"""

from __future__ import annotations

import operator
import os
import sys
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from data_pipeline.errors import UserError


def installed(group: str) -> dict[str, EntryPoint]:
    """What installed packages add to a group, by name; nothing is imported."""
    return {entry.name: entry for entry in entry_points(group=group)}


def load_installed(group: str, name: str) -> Any:
    """Import what an installed package added to a group under this name."""
    entry = installed(group)[name]
    return load_object(f"{entry.module}:{entry.attr}", f"{name} ({group})")


def described(group: str) -> dict[str, str]:
    """Each name of a group with what stands behind it, and its version: fit for a cache's key."""
    return {
        name: f"{entry.value} {entry.dist.version if entry.dist else ''}"
        for name, entry in sorted(installed(group).items())
    }


def load_object(address: str, asked: str) -> Any:
    """Import an object; its module may also lie in the current folder.

    Parameters
    ----------
    address : str
        ``package.module:name``.
    asked : str
        How the user asked for it, as in ``--model-type my_module:MyVAE``; for messages.

    Raises
    ------
    UserError
        If there is no such module, or no such name in it. What goes wrong inside of the module is
        raised as it is.
    """
    module, _, name = address.partition(":")
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())  # last: no file here takes the place of an installed module
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):  # something that the module imports
            raise
        raise UserError(
            f"{asked}: there is no module {error.name!r} in the current folder, on PYTHONPATH or "
            "among the installed packages; Fix: run from the folder that holds it, or install it"
        ) from error
    try:
        return operator.attrgetter(name)(found)
    except AttributeError as error:
        raise UserError(f"{asked}: {module} ({found.__file__}) has no {name}") from error
