"""Systems that cut a picture into horizontal stripes: `pcb`, `rpp`, `aligned`, `icnn`, `scpnet`, `lstm`."""

from pose2id.encoders.stripes.aligned import AlignedReID
from pose2id.encoders.stripes.icnn import ICNN
from pose2id.encoders.stripes.lstm import GatedLSTM
from pose2id.encoders.stripes.pcb import PCB
from pose2id.encoders.stripes.rpp import RPP
from pose2id.encoders.stripes.scpnet import SCPNet

__all__ = ["ICNN", "PCB", "RPP", "AlignedReID", "GatedLSTM", "SCPNet"]
