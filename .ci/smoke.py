"""Write what a wheel is tried with: a tiny model, stimuli and pairs. Run with tests/ importable."""

import sys
from pathlib import Path

from helpers.tiny_bundle import write_work

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir()
    write_work(folder)
