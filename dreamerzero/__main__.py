"""`python -m dreamerzero`, the same as `dreamerzero`."""

import sys

from dreamerzero.cli import main

if __name__ == "__main__":
    sys.exit(main())
