"""Tests of the contract of a defense, an attack or a network, on a few small images.

They are meant for the tests of whoever writes one. Each check raises BrokenContract with one line.
"""

from tasks.contract.attack import check_attack
from tasks.contract.conditions import BrokenContract, NotRepeatable
from tasks.contract.defense import check_defense
from tasks.contract.network import check_network

__all__ = ["BrokenContract", "NotRepeatable", "check_attack", "check_defense", "check_network"]
