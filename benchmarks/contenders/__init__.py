"""One program for each contender, run in an environment of its own; `protocol.py` is how they are spoken to."""
