"""What watches a stage while it trains: progress, time, energy, memory, gradients, metrics, trackers."""
