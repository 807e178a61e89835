"""The same federated training in fedmi_jax, in FedJAX and in Flower's simulation, side by side.

Every contestant is a process of its own, under an interpreter of its own, since their requirements exclude each other.

- `__main__.py`: the command and its table.
- `work.py`: what is to be done, written once, read by all.
- `contestant.py`: the parent's end of a contestant's process.
- `child.py`: the other end; it and `work.py` need only the standard library and numpy.
- `fedmi_side.py`, `fedjax_side.py`, `flower_side.py` with `flower_client.py`: how each one plays a round.

Importing this package imports no peer.
"""
