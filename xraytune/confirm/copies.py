"""Compare a finalist's synthetic images with the patients who were scored.

Whatever was declared of a generator, or of a folder of images, its images may be copies of test
images. They are recognised like copies of training images (synth/memorisation.py): too many of
them are nearer to a scored image than unseen X-rays are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xraytune.base.artifacts import build_once
from xraytune.base.files import read_json, write_json
from xraytune.confirm.arms import Arm, Plan
from xraytune.confirm.run_list import OpenStudy
from xraytune.confirm.sealed import SealedTest, load_test_image_set
from xraytune.data.prepare import RunContext, side_image_set
from xraytune.synth.memorisation import compare_with_unseen, measure_closeness, measure_unseen
from xraytune.synth.saved_generator import resize_planes
from xraytune.synth.sources.which import source_of
