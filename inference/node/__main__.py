"""`python -m inference.node [--stop-engines]`: the supervisor without Django's command line."""

import sys

from inference.node.supervisor import main

sys.exit(main(stop_engines="--stop-engines" in sys.argv[1:]))
