"""The parts of `tools/same_wire.py`. None of them imports the package that is compared."""
