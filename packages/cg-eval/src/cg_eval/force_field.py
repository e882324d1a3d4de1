"""A trained model from what training leaves behind: a bundle, or a checkpoint of a run, recognised by what is in the folder."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cg_data.errors import UserError, require

if TYPE_CHECKING:
    from cg_models.bundle import Bundle

CHECKPOINT_VERSIONS = (1, 2, 3)
"""Of cg-train's checkpoints: those that hold a model as it is read here."""


def load_force_field(path: Path | str) -> "Bundle":
    """Return the model in a folder: a bundle, a run of cg-train, its `checkpoints`, or one checkpoint in there.

    A run that is finished gives its bundle, an unfinished one its newest checkpoint. Raises `UserError` for anything else.
    """
    from cg_models.bundle import load_bundle

    path = Path(path)
    for folder in (path, path / "bundle"):
        if (folder / "model.yaml").is_file():
            return load_bundle(folder)
    checkpoint = _newest_checkpoint(path)
    if checkpoint is None:
        raise UserError(
            f"{path}: neither a bundle (no model.yaml) nor a checkpoint (no checkpoints/<step>/state): give a folder that cg-train wrote"
        )
    return load_checkpoint(checkpoint)


def load_checkpoint(path: Path) -> "Bundle":
    """Return the model of one checkpoint (`checkpoints/<step>`): averaged parameters where the run keeps an average.

    The prior and the species are read from where the run's configuration found them.
    """
    from cg_models.bundle import Bundle
    from cg_models.config import ModelConfig
    from cg_models.hybrid import build_model
    from cg_models.statistics import ModelStatistics
    from cg_priors.parameters import load_prior

    about = _read_about(path)
    options = about["config"]
    config = ModelConfig.parse(options["model"], f"{path}: model")
    statistics = ModelStatistics.parse(about["progress"]["statistics"], f"{path}: statistics")
    prior = load_prior(_located(path, options["prior"], "prior")) if config.mode != "backbone" else None
    species = tuple(prior.species_names) if prior is not None else _species_names(path, options)
    name = "average" if options.get("ema_decay") is not None else "params"
    params = _read_params(path, build_model(config, species, prior, statistics), name)
    return Bundle(config, species, params, prior, statistics, metrics={"step": about["progress"]["step"]})


def _newest_checkpoint(path: Path) -> Path | None:
    if (path / "state").is_dir() and path.name.isdigit():
        return path
    folder = path if path.name == "checkpoints" else path / "checkpoints"
    steps = [entry for entry in folder.glob("*") if entry.name.isdigit() and (entry / "state").is_dir()] if folder.is_dir() else []
    return max(steps, key=lambda entry: int(entry.name), default=None)


def _read_about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads((path / "progress" / "metadata").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable checkpoint ({error.__class__.__name__}): give another, or a bundle") from None
    version = about.get("version") if isinstance(about, dict) else None
    require(
        version in CHECKPOINT_VERSIONS,
        f"{path}: expected a checkpoint of version {', '.join(map(str, CHECKPOINT_VERSIONS))}, received {version}: give a bundle",
    )
    return dict(about)


def _located(checkpoint: Path, stated: str | None, what: str) -> Path:
    """Return a path of the run's configuration: as stated, or relative to the run's folder."""
    run = checkpoint.absolute().parent.parent
    found = [place for place in (Path(stated or ""), run / (stated or ""), run.parent / (stated or "")) if stated and place.exists()]
    require(bool(found), f"{checkpoint}: its {what} {stated} is not where the run found it: put it back, or give the run's bundle")
    return found[0]


def _species_names(path: Path, options: dict[str, Any]) -> tuple[str, ...]:
    from cg_data.store import open_dataset

    return open_dataset(_located(path, options["dataset"], "dataset")).species_names


def _read_params(path: Path, model: Any, name: str) -> Any:
    """Return one tree of parameters of a checkpoint's state, without the rest."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    shapes = jax.eval_shape(model.init, jax.random.key(0))
    template = jax.tree.map(lambda leaf: np.zeros(leaf.shape, model.config.precision), shapes)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            restore = ocp.args.PyTreeRestore(item={name: template}, partial_restore=True)
            params = reader.restore(path.absolute() / "state", args=restore)[name]
        # orbax restores whatever shapes it finds.
        if jax.tree.map(np.shape, params) != jax.tree.map(np.shape, template):
            raise ValueError("arrays of other shapes, as an ensemble's members together have")
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: its parameters cannot be read ({reason}): give another checkpoint, or the run's bundle") from None
    return jax.tree.map(jax.numpy.asarray, params)
