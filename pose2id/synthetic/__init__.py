"""Synthetic pedestrians: a small world drawn by a program, for trying the whole method offline.

Nothing here shows a real person, and results on these pictures say nothing about results on real ones. What makes an
identity are traits: colours and patterns of clothes, hair, hat, bag, proportions. Some are seen only from the front
(a logo, an open jacket) or only from behind (a print), and a backpack is a box from behind and two straps from the
front, so that one picture never shows everything. People walk in variations of the 8 representative poses of the
paper. Cameras differ in colour, contrast, light, sharpness and noise, crop badly, and see people behind other things.

Everything follows from a seed. A picture depends on the seed, its identity, camera and shot only, and is the same on
every run; other versions of Pillow or numpy, or another kind of machine, may round a few pixels differently.

The ideas are those of published synthetic data for re-identification, in two dimensions and without their realism:
identities made of random clothes on varied bodies (Y. Wang, S. Liao and L. Shao, Surpassing real-world source training
data: random 3D characters for generalizable person re-identification, ACM MM 2020), controlled directions, light and
backgrounds (X. Sun and L. Zheng, Dissecting person re-identification from the viewpoint of viewpoint, CVPR 2019).

`make_set` gives arrays, `write_dataset` a folder in the layout of Market-1501. Drawing needs Pillow (extra `ipg`).
"""

from pose2id.synthetic.cameras import Camera, make_camera
from pose2id.synthetic.drawing import PARTS
from pose2id.synthetic.folders import write_dataset
from pose2id.synthetic.people import Cloth, Person, make_person
from pose2id.synthetic.pictures import Picture, render
from pose2id.synthetic.sets import SyntheticSet, make_set
from pose2id.synthetic.traits import label_people, person_attributes
from pose2id.synthetic.walking import sample_pose

__all__ = [
    "PARTS",
    "Camera",
    "Cloth",
    "Person",
    "Picture",
    "SyntheticSet",
    "label_people",
    "make_camera",
    "make_person",
    "make_set",
    "person_attributes",
    "render",
    "sample_pose",
    "write_dataset",
]
