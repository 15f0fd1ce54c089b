"""`python -m tfgpt` is the command line."""

import sys

from tfgpt.cli import main

sys.exit(main())
