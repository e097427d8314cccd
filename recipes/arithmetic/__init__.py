"""The arithmetic world of `scratch_tiny`: made rows, a verifier and rewards, by what any recipe may use."""

from data.made import MadeRows
from recipes.arithmetic import rows
from recipes.arithmetic.verifier import VERIFIER, made_flexible, made_strict

__all__ = ["CONVERSATIONS", "DOCUMENTS", "PREFERENCES", "PROMPTS", "VERIFIER", "made_flexible", "made_strict"]

DOCUMENTS = MadeRows(rows.documents, 50_000, 256)
CONVERSATIONS = MadeRows(rows.conversations, 600, 240, VERIFIER)
PREFERENCES = MadeRows(rows.preferences, 4_000, 600, VERIFIER)
PROMPTS = MadeRows(rows.prompts, 10_000, 600, VERIFIER)
