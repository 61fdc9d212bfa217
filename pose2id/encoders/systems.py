"""The systems by name: what configurations and folders call them."""

from __future__ import annotations

from pose2id.encoders.attributes import APR
from pose2id.encoders.baseline import Global
from pose2id.encoders.contract import Encoder
from pose2id.encoders.grid import DSR, IDLA, PersonNet
from pose2id.encoders.masks import SPReID
from pose2id.encoders.pose import GLAD, PABP, PDC, PIE, Spindle
from pose2id.encoders.stripes import ICNN, PCB, RPP, AlignedReID, GatedLSTM, SCPNet
from pose2id.errors import suggest

SYSTEMS: dict[str, type[Encoder]] = {
    "global": Global,
    "pcb": PCB,
    "rpp": RPP,
    "aligned": AlignedReID,
    "icnn": ICNN,
    "scpnet": SCPNet,
    "lstm": GatedLSTM,
    "spindle": Spindle,
    "pdc": PDC,
    "glad": GLAD,
    "pabp": PABP,
    "pie": PIE,
    "spreid": SPReID,
    "idla": IDLA,
    "personnet": PersonNet,
    "dsr": DSR,
    "apr": APR,
}
"""A new system is a line here; it can then be trained, saved and loaded."""


def find_system(name: object) -> type[Encoder]:
    """The class of that name; ValueError says which there are."""
    if not isinstance(name, str) or name not in SYSTEMS:
        raise ValueError(f"system must be one of {', '.join(SYSTEMS)}, received {name!r}{suggest(name, SYSTEMS)}")
    return SYSTEMS[name]


def name_system(encoder: Encoder) -> str:
    """The name of an encoder's class."""
    for name, kind in SYSTEMS.items():
        if type(encoder) is kind:
            return name
    raise ValueError(f"encoder must be of one of the systems {', '.join(SYSTEMS)}, it is a {type(encoder).__name__}")
