"""The report of a run: one page that opens without a network, made of the run's files alone."""

from pathlib import Path

REPORT_FILE = "report.html"


def write_report(run_dir: Path) -> list[str]:
    """Write `report.html` into a run's directory, whatever its status and however much of it is there.

    Returns the summary that it opens with, at most six lines, which may hold text of a recipe or of an error as it is.
    """
    from evaluation.report.facts import read_run
    from evaluation.report.page import page
    from evaluation.report.story import alarm_line, summary
    from utils.files import replace_text

    run = read_run(run_dir)
    replace_text(run_dir / REPORT_FILE, page(run))
    return [*summary(run), *filter(None, [alarm_line(run)])]
