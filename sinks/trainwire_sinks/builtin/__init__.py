"""The sinks that come with Trainwire: one module each, named as the sink with "_" for "-".

A module here is imported whenever the sinks are listed: what a sink needs beyond the base install is imported in
`restore`.
"""
