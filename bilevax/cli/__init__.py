"""The command line, ``bilevax ...``: parses, calls the library, and prints."""

from .entry import main as main
