"""Entry point of `python3 -m hostfsd` and of the zipapp."""

import sys

from hostfsd.cli import main

sys.exit(main())
