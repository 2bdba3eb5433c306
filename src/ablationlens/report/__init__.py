"""One self-contained HTML page: the question, the answer, the figures, and how far to trust them."""

from ablationlens.report.write import report as report
