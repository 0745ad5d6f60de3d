"""The built-in sinks: a module for each, named after the sink, with "_" for "-"; may use all rooms but `cli`.

Listing the sinks imports every module here, so a module imports what its sink needs beyond the base install in
`restore`.
"""
