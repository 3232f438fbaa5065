"""A shared folder that lies, in memory: the faults F1-F25, each a switch with a rate, replayed by one seed.

world.py    virtual time, chance, the queue of what is still to happen, the trace
faults.py   the faults and their rates
tree.py     files and folders, several of one name allowed
cloud.py    what is really there, once it was uploaded
view.py     what one machine sees of it: late, out of order, spoiled; its own writes before they are uploaded
mount.py    the Medium over a view: outages, wrong listings, lost replies
disk.py     the Store of a machine: survives the process, not the machine
actor.py    a machine with its process, folder, disk and clock
human.py    hands in the web page, and a sync program that deletes too much
trying.py   short hands for tests
"""

from tests.simulator.actor import Actor, Killed
from tests.simulator.faults import FAULTS, NONE, Faults
from tests.simulator.world import SETTLE, World

__all__ = ["FAULTS", "NONE", "SETTLE", "Actor", "Faults", "Killed", "World"]
