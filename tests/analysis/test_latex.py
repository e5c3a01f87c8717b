"""The LaTeX that a report writes, compiled by a real pdflatex; skipped where there is none (``make test-latex``)."""

import shutil
import subprocess
from pathlib import Path

import pytest

from analysis import formats
from analysis.collate import collate
from analysis.crossing import crossing_tables
from analysis.plan_table import plan_table
from analysis.rates import rates_table, sensitivity
from analysis.statistics import summarise
from analysis.tables import comparison_table, differences_table, effects_table
from deltalab.track.journal import State
from tests.analysis.studies import ACCURACY, Levels, Outcome, make_study

TEX = shutil.which("pdflatex")
HOSTILE = ["a_b&c% \\end{document}", "{d} #1 ~^$x$ <z> |σ₀η²| é ß 変 \U0001f600", "[3] line\n\nbreak -- \\\\"]
DOCUMENT = """\\documentclass{article}
\\usepackage{booktabs}
\\begin{document}
%s
\\end{document}
"""


def outcome(levels: Levels, seed: int) -> Outcome:
    if seed == 2 and levels["variant"] == HOSTILE[1]:
        return Outcome(state=State.diverged)
    rate = float(levels["train.lr"])
    return Outcome(values={ACCURACY: 0.5 + rate * seed + len(levels["variant"]) / 1000})


@pytest.mark.skipif(TEX is None, reason="no pdflatex here; Debian's texlive-latex-recommended has it, and booktabs")
def test_every_table_compiles_whatever_the_names(tmp_path: Path):
    rates = {rate: {"train.lr": float(rate)} for rate in ("1e-3", "1e-2")}
    made = make_study(tmp_path, {"variant": HOSTILE, "train.lr": rates}, outcome, question="Is 100% of \\alpha_1 $5?")
    results = collate(tmp_path, made.name)
    summaries = summarise(results)
    rated = sensitivity(results)
    assert rated is not None
    tables = [comparison_table(results, summaries), *crossing_tables(results), rates_table(rated)]
    tables += [differences_table(results, summaries), effects_table(results, summaries), plan_table(results)]
    (tmp_path / "all.tex").write_text(DOCUMENT % formats.to_latex_file(tables, made.name))
    done = subprocess.run(
        [str(TEX), "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
        cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "all.pdf").read_bytes().startswith(b"%PDF")
    log = (tmp_path / "all.log").read_text(errors="replace")
    assert "Missing character" not in log
    assert "undefined" not in log
    assert "multiply defined" not in log
