"""The report of a study: `write(workdir)` draws report/index.html from the workdir's files."""

from kdib.report.page import write

__all__ = ["write"]
