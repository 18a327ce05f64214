"""``python -m codesign``: the command line, where no script is on the path."""

from codesign.cli.main import main

main()
