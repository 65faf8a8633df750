"""Search an index by text: `python search.py --index DIR "query"`. The same as `colbertz search`."""

import sys

from colbertz.cli import main

if __name__ == "__main__":
    sys.exit(main(["search", *sys.argv[1:]]))
