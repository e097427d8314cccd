"""The record of a run: its directory, logs and checkpoints, what is watched and counted for it, the catalogue."""
