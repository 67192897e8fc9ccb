"""`python -m leakline`."""

from leakline.cli.main import main

main()
