"""Both ends of Trainwire's wire: events, codec, journal, server and client. Needs no more than pyzmq and msgpack."""
