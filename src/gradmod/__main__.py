"""`python -m gradmod`."""

import sys

from gradmod.cli import main

sys.exit(main())
