"""`python -m gradmod`."""

import sys

from gradmod.experiments.cli.main import main

sys.exit(main())
