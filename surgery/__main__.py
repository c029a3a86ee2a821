"""`python -m surgery`, for `accelerate launch` and for machines where the command is not on the path."""

from surgery.cli.main import main

main()
