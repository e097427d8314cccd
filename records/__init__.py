"""What reads and writes a run directory: its records, its sealed checkpoints, and finding them again."""
