"""The plugins that come with Trainwire, each in a file of its own."""
