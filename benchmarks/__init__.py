"""Measures what Trainwire costs; `make bench` runs all benchmarks, and `python -m benchmarks NAME` one of them."""
