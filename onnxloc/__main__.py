"""``python -m onnxloc``."""

import sys

from onnxloc.cli import main

if __name__ == "__main__":
    sys.exit(main())
