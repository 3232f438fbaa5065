"""An unreliable shared folder in memory: the faults F1-F26, each with a rate, reproducible from one seed.

world.py    virtual time, the random generator, the event queue, the trace
faults.py   the faults and their rates
tree.py     files and folders, several of one name allowed
cloud.py    the authoritative content: what was uploaded
view.py     what one machine sees of it: late, out of order, corrupted; its own writes before they are uploaded
mount.py    the Medium over a view: outages, wrong listings, lost replies
disk.py     the Store of a machine: survives the process, not the machine
actor.py    a machine with its process, folder, disk and clock
human.py    people who change files in the web page, and a sync program that deletes too much
simulation.py  a run by a laptop and workers in such a world, and the properties P1-P5
federating.py  a federation of atlas in such a world
scenarios.py   histories of runs, each with the properties that hold at its end
small_worlds.py  set-up for the simulator's own tests
"""

from tests.simulator.actor import Actor, Killed
from tests.simulator.faults import FAULTS, NONE, Faults
from tests.simulator.world import SETTLE, World

__all__ = ["FAULTS", "NONE", "SETTLE", "Actor", "Faults", "Killed", "World"]
