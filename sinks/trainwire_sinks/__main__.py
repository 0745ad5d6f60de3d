"""`python -m trainwire_sinks`: the `trainwire` command."""

from trainwire_sinks.cli import main

if __name__ == "__main__":
    main()
