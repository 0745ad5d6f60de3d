"""What Trainwire costs, measured: `make bench`."""
