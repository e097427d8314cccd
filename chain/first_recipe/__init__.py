"""A first recipe for data of one's own: what `run_all.py --init` looks at, what it chooses and why, what it writes."""
