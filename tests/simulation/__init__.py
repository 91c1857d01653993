"""Recovery as a model that is played: random histories of losses, by seed, without any I/O.

The ledger, Redis processes, sidecars and workers are plain objects here; each thing that one of
them does is a generator that stops between its steps, and a seeded scheduler (`play.py`) decides
who goes on, who dies, who is asleep and what is lost. When a history has had its faults, everything
is healed and the protocol runs to its end; then nothing acknowledged may be missing, nothing spent
twice, and nothing stuck.

The model follows the real code rule by rule, and says in each docstring which. It is worth what
its mutations show: each takes one rule away, and must be caught.

`CREDITS_TEST_SIMULATIONS` sets how many histories the tests play, chosen anew each time; without it
a few are played, the same ones each time. `python -m tests.simulation` plays them by the thousand.
"""
