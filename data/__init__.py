"""Where rows come from: sources, layouts, the one chat rendering, splits, made data."""
