"""`python -m colbertz` is the `colbertz` command."""

import sys

from colbertz.cli import main

sys.exit(main())
