"""Reward modelling: learn to score answers as people's preferences would (Bradley and Terry, 1952)."""

from algorithms.trl_kind import TrlKind


class RewardModelling(TrlKind):
    """Trains on pairs of a chosen and a rejected answer.

    The result loads with `AutoModelForSequenceClassification` and gives one score, read at the last token of the
    conversation. Its head is new, from `config.seed`.
    """

    name = "reward"
    trl_name = "Reward"
    layout = "pairs"
    scores = True
    sequences_per_row = 2
    leaves_out_long = True
    keeps_adapters = False
    bar = {"loss": "loss", "accuracy": "accuracy"}
    tasks = ("verified_answers", "pairs", "worse_answers")
    figures = (
        "pairs accuracy",
        "pairs margin",
        "pairs brier",
        "pairs calibration_error",
        "pairs length_bias",
        "verified_answers auc",
    )
    headlines = ("pairs accuracy",)


REWARD = RewardModelling()
