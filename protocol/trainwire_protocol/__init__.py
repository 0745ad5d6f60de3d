"""Trainwire's wire protocol, for the training process and for sinks. Needs only pyzmq and msgpack.

Modules and rooms, each of which uses only those before it: errors and statistics, process, events and commands,
environment, wire (the codec), journal (files), transport (sockets), subscription (the reader's end).
"""
