"""One HTML page of a folder of results: every table and figure in it, nothing to load from elsewhere."""

import base64
import html
from pathlib import Path

from cg_data.atomic import atomic_file
from cg_data.errors import require

TABLES = ("forces.txt", "summary.txt", "comparison.txt", "scaling.txt")
CAPTIONS = {
    "scatter": "Predicted against reference force components; darker: more of them (logarithmic). Dashed: equality.",
    "residuals": "Left: distribution of errors of force components. Right: distribution of force magnitudes.",
    "residues": "Root mean square error of force components by residue type.",
    "proteins": "Root mean square error of force components by protein.",
    "simulation": "Energy, kinetic temperature and size of each replica (thin), their mean (thick); share in the physical range.",
    "distributions": "Densities of the model (dashed) over the reference (filled); the noise is that between two halves of the reference.",
    "scaling": "Measured speed-up, fitted laws, and the ideal.",
}
STYLE = """
body { font-family: sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222; }
pre { background: #f5f5f5; padding: 0.8em; overflow-x: auto; font-size: 0.85em; }
figure { margin: 1em 0; } img { max-width: 100%; } figcaption { font-size: 0.9em; color: #444; }
"""


def write_report(folders: list[Path], path: Path | str, title: str = "Evaluation of a coarse-grained force field") -> int:
    """Write the page of output folders of `cg-eval forces|simulate|compare|scaling` to `path`; return the number of figures.

    A section for each folder (also inside the given ones) that holds tables or figures, in order of their names.
    Raises `UserError` where there is nothing to show.
    """
    sections, n_figures = [], 0
    for root in folders:
        require(root.is_dir(), f"{root}: no such folder; expected an output folder of cg-eval")
        for folder in [root, *sorted(path for path in root.rglob("*") if path.is_dir())]:
            figures = sorted(folder.glob("*.png"))
            tables = [folder / name for name in TABLES if (folder / name).is_file()]
            if figures or tables:
                name = root.name if folder == root else f"{root.name} / {folder.relative_to(root)}"
                sections.append(_section(name, tables, figures))
                n_figures += len(figures)
    require(bool(sections), f"{', '.join(map(str, folders))}: no table or figure; expected output folders of cg-eval")
    page = (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
    )
    with atomic_file(path) as aside:
        aside.write_text(page + f"<body><h1>{html.escape(title)}</h1>\n" + "\n".join(sections) + "\n</body></html>\n")
    return n_figures


def _section(name: str, tables: list[Path], figures: list[Path]) -> str:
    parts = [f"<h2>{html.escape(name)}</h2>"]
    parts += [f"<pre>{html.escape(table.read_text())}</pre>" for table in tables]
    for figure in figures:
        kind, _, rest = figure.stem.partition("_")
        caption = " ".join(filter(None, [CAPTIONS.get(kind, kind), rest.replace("_", " ")]))
        picture = base64.b64encode(figure.read_bytes()).decode("ascii")
        parts.append(
            f"<figure><img alt='{html.escape(figure.stem)}' src='data:image/png;base64,{picture}'>"
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
    return "\n".join(parts)
