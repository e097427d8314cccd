"""What watches a stage while it trains: its alarms, its time, energy and memory, its trackers."""
