"""The commands of `python -m evaluation`, a file each: `add_arguments(parser)` and `serve(args)`."""
