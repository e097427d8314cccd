"""The chain: what holds for a run's stages together, before, between and after them."""
