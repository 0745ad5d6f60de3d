"""The `trainwire` command: `app`, and one module for each subcommand; may use all other rooms."""


def main() -> None:
    """Run the command line of this process and exit."""
    from trainwire_sinks.cli import app

    app.main()
