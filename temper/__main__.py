"""`python -m temper` is the command `temper`."""

import sys

from temper.cli import main

sys.exit(main())
