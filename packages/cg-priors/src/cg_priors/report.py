"""What the command line does between files: fit and write, describe, plot, export."""

import dataclasses
from collections.abc import Mapping, Sequence
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
from cg_priors.keys import POOLED
from cg_priors.parameters import BONDED, PriorParameters, check_free, load_prior, save_prior
from cg_priors.plots import check_plots, plot_prior, wildcard_counts


def fit_and_write(
    data: Path, output: Path, config_file: Path | None, overrides: Sequence[str], topology: Path | None, split: str, plots: Path | None
) -> str:
    """Fit, check and write a prior; return its description. What may not be written is refused before anything is read."""
    check_free(output)
    if plots is not None:
        check_plots(plots)
    config = PriorConfig.load(config_file, overrides)
    chosen = config.temperature_kelvin
    if isinstance(chosen, tuple) and len(chosen) == 1:
        (chosen,) = chosen
    frames, species_names = read_frames(data, split, topology, chosen if isinstance(chosen, float) else None)
    prior, histograms = fit_and_histograms(frames, config, species_names)
    source = {"data": data.name, **({"split": split} if data.is_dir() else {})}
    prior = dataclasses.replace(prior, provenance={**prior.provenance, **source})
    save_prior(output, prior)
    lines = [describe(prior, histograms), f"prior: {output}"]
    if plots is not None:
        lines += [f"plots: {path}" for path in plot_prior(plots, prior, histograms)]
    return "\n".join(lines)


def histograms_at(prior: PriorParameters, frames: Sequence[BeadFrames]) -> dict[float, dict[str, Histogram]]:
    """Return, for each of the prior's temperatures that frames have, the histograms of its coordinates over them."""
    found: dict[float, dict[str, Histogram]] = {}
    for block in (prior, *prior.others):
        selected = at_temperature(frames, block.temperature_kelvin)
        if selected:
            pooled = [name for name, term in block.terms.items() if len(term.rows) == 1]
            found[block.temperature_kelvin] = accumulate(selected, list(block.terms), block.species_names, pooled=pooled)
    shown = ", ".join(f"{value:g}" for value in prior.temperatures_kelvin)
    require(bool(found), f"data: expected frames at {shown} K, as the prior, received none: give other data")
    return found


def describe(prior: PriorParameters, histograms: Mapping[float, Mapping[str, Histogram]] | None = None) -> str:
    """Return a table of the terms: form, rows, pooled parameters with errors, JS divergence of data and fit.

    histograms: temperature in kelvin -> those of the data that its block was fitted on.
    """
    lines = []
    for block in (prior, *prior.others):
        data = (histograms or {}).get(block.temperature_kelvin)
        lines.append(f"prior at {block.temperature_kelvin:g} K, method {block.provenance.get('method', 'imported')}")
        for name, term in block.terms.items():
            parts = []
            for key, value in block.arrays[name].items():
                if np.ndim(value) == 1:
                    # None or 0: configured, or a well that no resample has.
                    error = float(term.errors[key][0]) if key in term.errors else 0.0
                    parts.append(f"{key} {float(value[0]):.5g}" + (f" +- {error:.2g}" if error else ""))
            order = [f"{key} {term.notes[key]}" for key in ("order",) if key in term.notes]
            divergence = []
            if data is not None and name in BONDED:
                found = data_divergences(block, name, data[name])
                divergence = [f"JS {value:.4f}" + ("" if row == POOLED else f" of {row}") for row, value in found.items()]
            rows = f"{len(term.rows)} rows" if len(term.rows) > 1 else "pooled"
            lines.append(f"  {name:16s}{term.form:12s}weight {term.weight:<6g}{rows}; {', '.join([*order, *parts, *divergence])}")
    return "\n".join(lines)


def data_divergences(prior: PriorParameters, name: str, histogram: Histogram) -> dict[str, float]:
    """Return the Jensen-Shannon divergence between the Boltzmann density of each wildcard row and the data that it was fitted on."""
    term = prior.terms[name]
    x = histogram.centres
    found = {}
    for row, counts in wildcard_counts(prior, name, histogram).items():
        index = term.rows.index(row)
        p = {key: np.asarray(value, np.float64)[index : index + 1] for key, value in prior.arrays[name].items()}
        density = boltzmann_probabilities(FORMS[term.form].formula(x, p, term.settings), jacobian(name, x), prior.temperature_kelvin)
        found[row] = js_divergence(coarse(name, counts, x)[0], coarse(name, density, x)[0])
    return found


def plot_files(
    prior_file: Path, data: Path | None, output: Path, topology: Path | None, split: str, temperature_kelvin: float | None
) -> list[Path]:
    """Draw a prior, with data where given; return the files written.

    temperature_kelvin: of data that do not state theirs; None: that of the prior, where it has one.
    """
    check_plots(output)
    prior = load_prior(prior_file)
    if data is None:
        return plot_prior(output, prior)
    if temperature_kelvin is None and not prior.others:
        temperature_kelvin = prior.temperature_kelvin
    frames, species_names = read_frames(data, split, topology, temperature_kelvin)
    _check_species(data, species_names, prior_file, prior)
    return plot_prior(output, prior, histograms_at(prior, frames))


def export_files(
    prior_file: Path, structure: Path, output: Path, to: str, topology: Path | None, temperature_kelvin: float | None, domain: int
) -> list[Path]:
    """Export a prior for the first frame of a molecule; return the files written."""
    prior = load_prior(prior_file)
    if temperature_kelvin is not None:
        prior = prior.at(temperature_kelvin)
    frames, species_names = read_frames(structure, topology=topology, temperature_kelvin=prior.temperature_kelvin)
    require(0 <= domain < len(frames), f"{structure}: domain {domain}: expected 0 to {len(frames) - 1}: choose one of them")
    _check_species(structure, species_names, prior_file, prior)
    first = frames[domain].positions[0]
    require(bool(np.isfinite(first).all()), f"{structure}: positions must be finite; frame 0 is not: remove it and prepare again")
    if to == "openmm":
        from cg_priors.export_openmm import export_openmm

        return export_openmm(output, prior, frames[domain])
    from cg_priors.export_lammps import export_lammps

    return export_lammps(output, prior, frames[domain])


def _check_species(data: Path, species_names: Sequence[str], prior_file: Path, prior: PriorParameters) -> None:
    require(
        tuple(species_names) == tuple(prior.species_names),
        f"{data}: its species differ from those of {prior_file}: expected {', '.join(prior.species_names)}: use data of one mapping",
    )
