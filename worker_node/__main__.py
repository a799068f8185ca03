import sys

from worker_node.main import main

if __name__ == "__main__":
    sys.exit(main())
