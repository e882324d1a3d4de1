"""What the command line does between files: fit and write, describe, plot, export."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cg_data.contracts import BeadFrames
from cg_data.errors import require
from cg_priors.boltzmann import jacobian
from cg_priors.config import PriorConfig
from cg_priors.divergence import boltzmann_probabilities, coarse, js_divergence
from cg_priors.fit import at_temperature, fit_and_histograms
from cg_priors.forms import FORMS
from cg_priors.histogram import Histogram, accumulate
from cg_priors.inputs import read_frames
from cg_priors.parameters import BONDED, PriorParameters, load_prior, save_prior


def fit_and_write(
    data: Path, output: Path, config_file: Path | None, overrides: Sequence[str], topology: Path | None, split: str, plots: Path | None
) -> str:
    """Fit, check and write a prior; return its description."""
    config = PriorConfig.load(config_file, overrides)
    chosen = config.temperature_kelvin
    frames, species_names = read_frames(data, split, topology, chosen if isinstance(chosen, float) else None)
    prior, histograms = fit_and_histograms(frames, config, species_names)
    source = {"data": data.name, **({"split": split} if data.is_dir() else {})}
    prior = dataclasses.replace(prior, provenance={**prior.provenance, **source})
    save_prior(output, prior)
    histograms = {name: histograms[name] for name in prior.terms}
    lines = [describe(prior, histograms), f"prior: {output}"]
    if plots is not None:
        from cg_priors.plots import plot_prior

        lines += [f"plots: {path}" for path in plot_prior(plots, prior, histograms)]
    return "\n".join(lines)


def histograms_at(prior: PriorParameters, frames: Sequence[BeadFrames]) -> dict[str, Histogram]:
    """Return the histograms of the prior's coordinates over frames at its temperature."""
    selected = at_temperature(frames, prior.temperature_kelvin)
    require(bool(selected), f"data: expected frames at the prior's {prior.temperature_kelvin:g} K, received none: give other data")
    pooled = [name for name, term in prior.terms.items() if len(term.rows) == 1]
    return accumulate(selected, list(prior.terms), prior.species_names, pooled=pooled)


def describe(prior: PriorParameters, histograms: dict[str, Histogram] | None = None) -> str:
    """Return a table of the terms: form, rows, pooled parameters with errors, JS divergence of data and fit."""
    lines = []
    for block in (prior, *prior.others):
        lines.append(f"prior at {block.temperature_kelvin:g} K, method {block.provenance.get('method', 'imported')}")
        for name, term in block.terms.items():
            parts = []
            for key, value in block.arrays[name].items():
                if np.ndim(value) == 1:
                    error = f" +- {float(term.errors[key][0]):.2g}" if key in term.errors else ""
                    parts.append(f"{key} {float(value[0]):.5g}{error}")
            order = [f"{key} {term.notes[key]}" for key in ("order",) if key in term.notes]
            divergence = []
            if block is prior and histograms is not None and name in BONDED:
                divergence = [f"JS {data_divergence(block, name, histograms[name]):.4f}"]
            rows = f"{len(term.rows)} rows" if len(term.rows) > 1 else "pooled"
            lines.append(f"  {name:16s}{term.form:12s}weight {term.weight:<6g}{rows}; {', '.join([*order, *parts, *divergence])}")
    return "\n".join(lines)


def data_divergence(prior: PriorParameters, name: str, histogram: Histogram) -> float:
    """Return the Jensen-Shannon divergence between data and the Boltzmann density of the pooled row alone."""
    term = prior.terms[name]
    p = {key: np.asarray(value, np.float64)[:1] for key, value in prior.arrays[name].items()}
    x = histogram.centres
    density = boltzmann_probabilities(FORMS[term.form].formula(x, p, term.settings), jacobian(name, x), prior.temperature_kelvin)
    return js_divergence(coarse(name, histogram.counts.sum((0, 1)), x)[0], coarse(name, density, x)[0])


def plot_files(prior_file: Path, data: Path | None, output: Path, topology: Path | None, split: str) -> list[Path]:
    """Draw a prior, with data where given; return the files written."""
    from cg_priors.plots import plot_prior

    prior = load_prior(prior_file)
    histograms = None
    if data is not None:
        frames, _ = read_frames(data, split, topology, prior.temperature_kelvin)
        histograms = histograms_at(prior, frames)
    return plot_prior(output, prior, histograms)


def export_files(prior_file: Path, structure: Path, output: Path, to: str, temperature_kelvin: float | None, domain: int) -> list[Path]:
    """Export a prior for the first frame of a molecule; return the files written."""
    prior = load_prior(prior_file)
    if temperature_kelvin is not None:
        prior = prior.at(temperature_kelvin)
    frames, species_names = read_frames(structure, temperature_kelvin=prior.temperature_kelvin)
    require(0 <= domain < len(frames), f"{structure}: domain {domain}: expected 0 to {len(frames) - 1}: choose one of them")
    require(
        tuple(species_names) == tuple(prior.species_names),
        f"{structure}: its species differ from those of {prior_file}: expected {', '.join(prior.species_names)}: use data of one mapping",
    )
    first = frames[domain].positions[0]
    require(bool(np.isfinite(first).all()), f"{structure}: positions must be finite; frame 0 is not: remove it and prepare again")
    if to == "openmm":
        from cg_priors.export_openmm import export_openmm

        return export_openmm(output, prior, frames[domain])
    from cg_priors.export_lammps import export_lammps

    return export_lammps(output, prior, frames[domain])
