"""`python -m colbertz`, the same as `colbertz`."""

import sys

from colbertz.cli import main

if __name__ == "__main__":
    sys.exit(main())
