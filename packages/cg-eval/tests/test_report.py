"""The report is one page that needs nothing else."""

import re

import pytest

from cg_data.errors import UserError
from cg_eval.report import write_report
from cg_eval.scaling import fit_scaling


def test_a_report_holds_every_table_and_figure_and_loads_nothing(tmp_path):
    fit_scaling([1, 2, 4], [40.0, 21.0, 12.0]).save(tmp_path / "results/scaling <b>")
    assert write_report([tmp_path / "results"], tmp_path / "report.html") == 1
    page = (tmp_path / "report.html").read_text()
    assert "results / scaling &lt;b&gt;" in page
    assert "serial fraction" in page
    assert "fitted laws" in page
    sources = re.findall(r"(?:src|href)='([^']{0,22})", page)
    assert sources
    assert all(source == "data:image/png;base64," or source.startswith("#") for source in sources)


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(UserError, match="no table or figure"):
        write_report([tmp_path], tmp_path / "report.html")
