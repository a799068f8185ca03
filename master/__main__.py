"""`python -m master`."""

import sys

from master.main import main

if __name__ == "__main__":
    sys.exit(main())
