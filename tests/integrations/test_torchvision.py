"""What most frameworks import: torchvision beside any torch."""


def test_torchvision_can_be_imported(package):
    boxes = package("torchvision.ops").box_area(package("torch").tensor([[0.0, 0.0, 2.0, 3.0]]))
    assert boxes.tolist() == [6]
