"""Closes the difference between what people want and what runs: observe → decide (pure) → act.

Level-triggered: each round looks at everything afresh and remembers nothing, so it may be killed
between any two statements. A replica's row exists before its engine is asked for, and asking again
for the same replica starts nothing, so an instance generation never has two engines. It is the one
writer of the observed fields of Instance and of Replica.
"""

from inference.reconciler.loop import run
from inference.reconciler.place import handle_of, provisioner
from inference.reconciler.rounds import Reconciler

__all__ = ["Reconciler", "handle_of", "provisioner", "run"]
