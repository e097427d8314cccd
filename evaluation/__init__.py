"""Held-out tasks, scored before and after each stage on the same examples. Importing this loads no model library."""

from evaluation.choose import tasks_for
from evaluation.compare import evaluate_stage
from evaluation.table import result_table
from evaluation.verifier import Verifier

__all__ = ["Verifier", "evaluate_stage", "result_table", "tasks_for"]
