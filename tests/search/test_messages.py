"""What the search, Ray's process and the workers say to each other arrives as it was sent."""

import math

import pytest

from tests.study.studies import ended, epoch
from xraytune.search import messages
from xraytune.search.messages import Message, decode, encode

JOB = messages.Job(study="s", cache="c", number=7, label="#7", gpu_share=0.5, lock="l", token="t")


@pytest.mark.parametrize(
    "message",
    [
        epoch(1, 0.1 + 0.2),
        epoch(1, math.inf),
        ended(1 / 3),
        messages.GeneratorTrained(),
        messages.TrialFailed(reason="Umlaut ü\nand a line", cause="memory"),
        messages.SlotFree(nodes=(messages.Node(cpus=3, gpus=0.25), messages.Node(cpus=1, gpus=0))),
        messages.StartTrial(job=JOB, process="p", resources={"CPU": 2.0}),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    assert decode(encode(message)) == message


def test_a_loss_that_is_not_a_number_arrives_as_such_and_an_unknown_message_is_refused() -> None:
    assert math.isnan(decode(encode(epoch(1, math.nan))).record.val_score)
    with pytest.raises(KeyError):
        decode('["Other", {}]')
