"""``python -m bilevax`` is ``bilevax``."""

import sys

from .cli import main

sys.exit(main())
