"""`python -m metricx_observe.cli`."""

from . import main

main()
