"""The report of a study, drawn from the files of its workdir alone."""

import pathlib


def write(workdir: pathlib.Path) -> pathlib.Path:
    """Draw report/index.html and report/figures of a workdir; returns the path of the page.

    Raises:
      FileNotFoundError: without config.json or task.json.
      ValueError: where these are damaged, or the rows are not those of the declared properties.
    """
    from kdib.report import page  # matplotlib, which takes most of a second to import

    return page.write(workdir, workdir / "report").path
