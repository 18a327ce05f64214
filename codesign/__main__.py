"""``python -m codesign``: the command line, where no script is on the path."""

import sys

from codesign.cli.main import main

sys.exit(main())
