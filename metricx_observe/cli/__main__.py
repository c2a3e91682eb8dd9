"""`python -m metricx_observe.cli`."""

from . import main

if __name__ == "__main__":
    main()
