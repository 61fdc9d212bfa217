"""Pipelines in several threads, as in a web service; pipelines that share parts; calls from within calls."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import pytest

pytest.importorskip("diffusers")
import torch
from PIL import Image

from pose2id.ipg import IPGPipeline, generate_features, representative_poses
from pose2id.ipg.locks import hold
from pose2id.ipg.networks import SmallEncoder
from pose2id.ipg.weights import tiny_folder

LONG = 60  # seconds, after which a thread that waits is taken for one that waits for ever
POSES = representative_poses()


def load():
    pipe = IPGPipeline.from_pretrained("tiny")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def whole():
    return load()


@pytest.fixture
def pipe(whole):
    """A pipeline whose parts no other test shares."""
    return copy.deepcopy(whole)


def person(number):
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (64, 32, 3), dtype=np.uint8))


def draw(pipe, number=0, **options):
    """Request `number` of many that differ in everything that a pipeline keeps during a call."""
    settings = {"num_inference_steps": 1 + number % 3, "guidance_scale": (2.0, 1.0)[number % 2], "seed": number}
    poses = POSES[number % 8 : number % 8 + 1 + number % 2]
    return pipe(person(number), poses, **{"output_type": "np", "batch_size": 1, **settings, **options}).images


def same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def in_thread(function):
    """A thread that runs `function`; what it raised is in `.errors`."""

    def run():
        try:
            function()
        except Exception as error:  # noqa: BLE001 - told to the test
            thread.errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.errors = []
    thread.start()
    return thread


def finish(*threads):
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive(), "waits for ever"
        assert thread.errors == []


def test_a_web_service_with_a_thread_pool(pipe):
    numbers = range(4)
    serial = [draw(pipe, number) for number in numbers]
    with ThreadPoolExecutor(3) as pool:
        same(list(pool.map(lambda number: draw(pipe, number), numbers, timeout=LONG)), serial)


def sharing(pipe, *names):
    """A pipeline with copies of all parts but those named."""
    parts = {name: part if name in names else copy.deepcopy(part) for name, part in pipe.components.items()}
    other = IPGPipeline(**parts)
    other.set_progress_bar_config(disable=True)
    return other


@pytest.mark.parametrize("shared", ["all", "from_pipe", "unet", "reference_unet", "scheduler"])
def test_pipelines_of_the_same_parts_wait_for_each_other(pipe, shared):
    if shared == "all":
        other = IPGPipeline(**pipe.components)
    elif shared == "from_pipe":
        other = IPGPipeline.from_pipe(pipe)
    else:
        other = sharing(pipe, shared)
    other.set_progress_bar_config(disable=True)
    expected = [draw(pipe, 5), draw(pipe, 1)]
    found, drawn, threads = {}, threading.Event(), []

    def second():
        found[1] = draw(other, 1)
        drawn.set()

    def during(*_):
        if not threads:
            threads.append(in_thread(second))
            drawn.wait(0.2)  # where it need not wait, it is done by then

    found[0] = draw(pipe, 5, callback_on_step_end=during)
    finish(*threads)
    same([found[0], found[1]], expected)


def test_pipelines_of_other_parts_do_not_wait(pipe):
    other = copy.deepcopy(pipe)
    meeting = threading.Barrier(2, timeout=LONG)  # breaks unless both are inside

    def meet(*_):
        meeting.wait()

    finish(*[in_thread(lambda own=own: draw(own, callback_on_step_end=meet)) for own in (pipe, other)])


def test_locks_are_taken_in_one_order(pipe):
    crossed = IPGPipeline(**{**pipe.components, "unet": pipe.reference_unet, "reference_unet": pipe.unet})
    crossed.set_progress_bar_config(disable=True)
    expected = [draw(own, number) for number in range(2) for own in (pipe, crossed)]
    found = {}

    def serve(own, number):
        found[own is crossed, number] = draw(own, number)

    jobs = [(own, number) for number in range(2) for own in (pipe, crossed)]
    finish(*[in_thread(lambda job=job: serve(*job)) for job in jobs])
    same([found[own is crossed, number] for own, number in jobs], expected)


def test_locks_of_parts_that_are_taken_by_many():
    """Threads that want overlapping parts in all orders."""

    class Part:
        pass

    parts, compiled = [Part() for _ in range(4)], [Part() for _ in range(4)]
    for part, wrapper in zip(parts, compiled, strict=True):
        wrapper._orig_mod = part  # as torch.compile gives it
    inside = dict.fromkeys(parts, 0)
    orders = [[parts[i], parts[j]] for i in range(4) for j in range(4) if i != j]

    def work(wanted):
        for number in range(200):
            with hold(wanted if number % 2 else [compiled[parts.index(part)] for part in wanted]):
                for part in wanted:
                    inside[part] += 1
                assert all(inside[part] == 1 for part in wanted)
                for part in wanted:
                    inside[part] -= 1

    finish(*[in_thread(lambda wanted=wanted: work(wanted)) for wanted in orders])


@pytest.mark.parametrize("inner", ["same", "of its parts", "of one part", "of other parts", "features"])
def test_a_call_from_within_a_callback(pipe, inner):
    expected = draw(pipe, 2)
    others = {
        "same": lambda: draw(pipe),
        "of its parts": lambda: draw(IPGPipeline(**pipe.components)),
        "of one part": lambda: draw(sharing(pipe, "vae")),
        "of other parts": lambda: draw(sharing(pipe)),  # another thread may hold them and wait for ours
        "features": lambda: generate_features(pipe, lambda _: None, person(0), POSES[:1]),
    }
    refused = []

    def callback(*_):
        with pytest.raises(RuntimeError, match="cannot be called from within a call, as from callback_on_step_end"):
            others[inner]()
        refused.append(inner)

    same(draw(pipe, 2, callback_on_step_end=callback), expected)
    assert refused == [inner] * len(refused)
    assert refused
    same(draw(pipe, 2), expected)


def test_a_callback_may_use_parts_by_themselves(pipe):
    expected = draw(pipe, 2)
    memory = pipe.build_memory(person(3), 64, 32)

    def callback(own, *_):
        again = own.build_memory(person(3), 64, 32)
        assert all(torch.equal(*pair) for pair in zip(chain(*memory.values()), chain(*again.values()), strict=True))
        own.encode_poses(POSES[:1], 64, 32)

    same(draw(pipe, 2, callback_on_step_end=callback), expected)


def test_an_error_lets_the_others_go_on(pipe):
    expected = draw(pipe, 1)

    def fail(*_):
        raise KeyError("of the callback")

    with pytest.raises(KeyError):
        draw(pipe, callback_on_step_end=fail)
    with pytest.raises(TypeError, match="must return a dict"):
        draw(pipe, callback_on_step_end=lambda *_: 3)
    found = []
    finish(in_thread(lambda: found.append(draw(pipe, 1))))
    same(found, [expected])


def test_features_in_threads_with_one_encoder(pipe):
    encoder = pipe.identity_encoder  # of the pipeline itself

    @torch.no_grad()
    def encode(pictures):
        return encoder(encoder.preprocess(pictures))

    def features(number):
        return generate_features(pipe, encode, [person(number)], POSES[:2], num_inference_steps=1, seed=number)

    serial = list(map(features, range(4)))
    with ThreadPoolExecutor(3) as pool:
        same(list(pool.map(features, range(4), timeout=LONG)), serial)


def test_copies_saved_and_pickled_pipelines(pipe, tmp_path):
    expected = draw(pipe)
    others = [copy.deepcopy(pipe), pickle.loads(pickle.dumps(pipe))]
    pipe.save_pretrained(tmp_path)
    others.append(IPGPipeline.from_pretrained(tmp_path))
    for other in others:
        other.set_progress_bar_config(disable=True)
        same(draw(other), expected)
        assert other.defaults == pipe.defaults


def test_pipelines_are_loaded_in_threads(pipe):
    expected = draw(pipe)
    with ThreadPoolExecutor(3) as pool:
        loaded = list(pool.map(lambda _: load(), range(3), timeout=LONG))
    for own in loaded:
        assert not any(tensor.is_meta for tensor in own.unet.state_dict().values())
        same(draw(own), expected)
    assert not torch.nn.Linear(1, 1).weight.is_meta  # as accelerate makes them while it loads


def test_a_pipeline_of_the_parts_of_another_draws_as_it_does(pipe):
    own = ((64, 32), 10, 2.0)
    assert pipe.defaults == own
    assert IPGPipeline(**pipe.components).defaults == own
    assert IPGPipeline.from_pipe(pipe).defaults == own
    assert IPGPipeline(**copy.deepcopy(pipe.components)).defaults == own
    changed = IPGPipeline(**pipe.components, sample_size=(32, 32), guidance_scale=1.0)
    assert changed.defaults == ((32, 32), 10, 1.0)
    assert IPGPipeline(**pipe.components).defaults == own  # those of the weights
    images = IPGPipeline(**pipe.components)(person(0), POSES[:1], output_type="np").images
    np.testing.assert_array_equal(images, pipe(person(0), POSES[:1], output_type="np").images)
    # Of a network by itself, its settings tell the size, and nothing the rest.
    unet = type(pipe.unet).from_pretrained(tiny_folder() / "unet")
    assert IPGPipeline(**{**pipe.components, "unet": unet}).defaults == ((64, 32), 20, 3.5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("a.png", r"references must be .* a PIL image; received str 'a.png': pose2id.images.read_image reads a path"),
        (b"a.png", "received bytes b'a.png': "),
        (
            tiny_folder() / "a.png",
            r"received \w+Path \w+\('.*a\.png'\): pose2id.images.read_image",
        ),
        (np.zeros((64, 32, 3), np.uint8), r"received ndarray of shape \(64, 32, 3\): PIL.Image.fromarray takes"),
        (torch.zeros(3, 64, 32), r"received Tensor of shape \(3, 64, 32\): PIL.Image.fromarray takes"),
        ([person(0), "a.png"], r"references\[1\] must be a PIL image; received str 'a.png': pose2id.images.read_image"),
        ([np.zeros(3)], r"references\[0\] must be a PIL image; received ndarray of shape \(3,\)"),
        ([None], r"references\[0\] must be a PIL image; received NoneType$"),
        (None, "references must be one or a list of these: a PIL image; received NoneType$"),
        ({"a": person(0)}, "received dict$"),
    ],
)
def test_what_references_and_poses_may_be(whole, given, words):
    with pytest.raises(TypeError, match=words):
        whole(given)
    if given is not None:
        with pytest.raises(TypeError, match=words.replace("references", "poses").replace("image;", "image or Pose;")):
            whole(person(0), given)


def test_the_encoder_of_the_tiny_pipeline_is_that_of_its_folder(whole):
    encoder = SmallEncoder.from_pretrained(tiny_folder() / "identity_encoder")
    pixels = encoder.preprocess([person(0)])
    assert torch.equal(encoder(pixels), whole.identity_encoder(pixels))
