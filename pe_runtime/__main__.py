"""`python -m pe_runtime` is `pe-runtime`."""

from pe_runtime.cli import main

main()
