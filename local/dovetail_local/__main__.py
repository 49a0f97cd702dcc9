"""`python -m dovetail_local`: the command line on its own."""

from dovetail_local.cli import main

main()
