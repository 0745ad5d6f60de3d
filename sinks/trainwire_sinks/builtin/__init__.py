"""The built-in sinks: a module for each, named like the sink, with "_" for "-". Uses all rooms but the command line.

Listing the sinks imports every module here, so a module imports what its sink needs beyond the base install in
`restore`.
"""
