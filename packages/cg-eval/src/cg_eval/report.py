"""One HTML page of a folder of results: every table and figure in it, nothing to load from elsewhere."""

import base64
import html
from pathlib import Path

from cg_data.atomic import atomic_file
from cg_data.errors import require

TABLES = ("forces.txt", "summary.txt", "comparison.txt", "ensemble.txt", "scaling.txt")
CAPTIONS = {
    "scatter": "Predicted against reference force components; darker: more of them (logarithmic). Dashed: equality.",
    "residuals": "Left: distribution of errors of force components. Right: distribution of force magnitudes.",
    "residues": "Root mean square error of force components by residue type.",
    "proteins": "Root mean square error of force components by protein.",
    "positions": "Root mean square error of force components at the three beads of either end of a chain, and elsewhere.",
    "terms": "Each energy term: rms of its force; mean square error of the whole without it.",
    "simulation": "Energy, kinetic temperature and size of each replica (thin), their mean (thick); share in the physical range.",
    "distributions": "Densities of the model (dashed) over the reference (filled); JS: Jensen-Shannon divergence, at most ln 2 = 0.69; "
    "noise: that between two halves of the reference.",
    "free-energies": "Free energies, Jacobians taken out: model (squares), reference (dots), and between its two halves (grey).",
    "surfaces": "Free-energy surfaces; black: lowest, white: never seen or above 4 kcal/mol; a contour every kcal/mol.",
    "contacts": "Left: share of frames in which two CA are within 8 A. Right: the model's less the reference's.",
    "rmsf": "Fluctuation of each residue about the mean structure of its trajectory.",
    "survival": "Share of replicas that have stayed in the physical range.",
    "calibration": "Error of the ensemble's mean against its members' spread, in bins of equal numbers of force vectors.",
    "scaling": "Measured speed-up and efficiency, fitted laws with 95 % intervals, and the ideal.",
}
STYLE = """
body { font-family: sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; color: #222; line-height: 1.4; }
pre { background: #f5f5f5; padding: 0.8em; overflow-x: auto; font-size: 0.8em; }
figure { margin: 1.5em 0; } img { max-width: 100%; } figcaption { font-size: 0.9em; color: #444; }
nav { columns: 2; font-size: 0.9em; } h2 { border-top: 1px solid #ccc; padding-top: 1em; }
"""
GUIDE = """
<p>A model is judged here by its force errors, beside those of predicting nothing (<em>zero</em>) and of the prior alone, and by what it
visits in simulation, beside the all-atom reference. Every difference has two companions: an interval, from resampling whole
trajectories and their time blocks, and the <em>noise</em>, which is the same difference between two halves of the reference. A model
whose difference is near the noise cannot be told from the reference with these data. Instantaneous forces fluctuate at fixed bead
positions; no model's error falls below that. Units: A, kcal/mol, K, ps.</p>
"""


def write_report(folders: list[Path], path: Path | str, title: str = "Evaluation of a coarse-grained force field") -> int:
    """Write the page of output folders of cg-eval's other verbs to `path`; return the number of figures.

    A section for each folder (also inside the given ones) that holds tables or figures, in order of their names.
    Raises `UserError` where there is nothing to show.
    """
    sections, names, n_figures = [], [], 0
    for root in folders:
        require(root.is_dir(), f"{root}: no such folder; expected an output folder of cg-eval")
        for folder in [root, *sorted(path for path in root.rglob("*") if path.is_dir())]:
            figures = sorted(folder.glob("*.png"))
            tables = [folder / name for name in TABLES if (folder / name).is_file()]
            if figures or tables:
                name = root.name if folder == root else f"{root.name} / {folder.relative_to(root)}"
                names.append(name)
                sections.append(_section(name, len(names), tables, figures))
                n_figures += len(figures)
    require(bool(sections), f"{', '.join(map(str, folders))}: no table or figure; expected output folders of cg-eval")
    page = (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
    )
    with atomic_file(path) as aside:
        aside.write_text(
            page
            + f"<body><h1>{html.escape(title)}</h1>\n{GUIDE}<nav>{_contents(names)}</nav>\n"
            + "\n".join(sections)
            + "\n</body></html>\n"
        )
    return n_figures


def _contents(names: list[str]) -> str:
    return "".join(f"<div><a href='#s{number}'>{html.escape(name)}</a></div>" for number, name in enumerate(names, start=1))


def _section(name: str, number: int, tables: list[Path], figures: list[Path]) -> str:
    parts = [f"<h2 id='s{number}'>{html.escape(name)}</h2>"]
    parts += [f"<pre>{html.escape(table.read_text())}</pre>" for table in tables]
    for figure in figures:
        kind, _, rest = figure.stem.partition("_")
        caption = ": ".join(filter(None, [rest.replace("_", " ").capitalize(), CAPTIONS.get(kind, kind)]))
        picture = base64.b64encode(figure.read_bytes()).decode("ascii")
        parts.append(
            f"<figure><img alt='{html.escape(figure.stem)}' src='data:image/png;base64,{picture}'>"
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
    return "\n".join(parts)
