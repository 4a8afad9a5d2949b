"""The report of a study, drawn from the files of its workdir only."""

import pathlib


def write(workdir: pathlib.Path) -> pathlib.Path:
    """Draw report/index.html and report/figures of a workdir, and return the path of the page.

    Raises:
      FileNotFoundError: if config.json or task.json is missing.
      ValueError: if one of these is damaged, or the rows are not those of the declared properties.
    """
    from kdib.report import page  # imports matplotlib, which takes most of a second

    return page.write(workdir, workdir / "report").path
