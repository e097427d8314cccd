"""Held-out tasks, scored before and after each stage on the same examples. Importing this loads no model library."""

from evaluation.before_and_after import evaluate_stage
from evaluation.choose import tasks_for
from evaluation.from_python import curves, figures
from evaluation.table import result_table
from evaluation.verifier import Verifier

__all__ = ["Verifier", "curves", "evaluate_stage", "figures", "result_table", "tasks_for"]
