"""What to say of a loss that is not finite."""

from __future__ import annotations

from collections.abc import Collection

from data_pipeline.files import write_json
from data_pipeline.folder import DataFolder
from data_pipeline.load.loader import make_loader
from data_pipeline.order import World
from vae_dist.run.folder import RunFolder
from vae_dist.train.readings import NonFiniteLoss
from vae_dist.train.settings import Settings, crop_of_loader


def explain(
    error: NonFiniteLoss,
    data: DataFolder,
    settings: Settings,
    folder: RunFolder,
    left_out: Collection[str],
) -> NonFiniteLoss:
    """The failure with its step and images: a step is a function of its counters.

    Writes all positions of the images into ``bad-batch.json`` of the run folder.
    """
    run = settings.run
    whole = make_loader(
        data,
        "train",
        settings.loader,
        World(),
        batch_size=run.batch_size,
        seed=run.seed,
        exclude=frozenset(left_out),
        crop=crop_of_loader(settings, data.manifest),
    )
    step = int(error.args[0])
    epoch, within = divmod(step, whole.steps_per_epoch)
    images = next(iter(whole.batches(epoch, within))).index.tolist()
    record = folder.path / "bad-batch.json"
    where = {"step": step, "epoch": epoch, "step_in_epoch": within, "index": images}
    write_json(record, where)
    last = folder.checkpoints / "last"
    kept = last.readlink() if last.exists() else "none yet"
    return NonFiniteLoss(
        f"the loss of step {step} (epoch {epoch}, step {within} of it) is not finite; its images, "
        f"by position in the source: {', '.join(map(str, images[:8]))} ... (all in {record}); "
        f"last good checkpoint: {kept}; lower --lr, set --grad-clip, or allow some by "
        "--max-bad-steps"
    )
