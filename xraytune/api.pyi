from xraytune.audit import Audit, audit
from xraytune.base.errors import XraytuneError
from xraytune.cli.console import show_progress
from xraytune.cli.getting_started import run_demo as demo
from xraytune.cli.results import show_search
from xraytune.confirm.curve import Curve, curve
from xraytune.confirm.drawn import Drawn
from xraytune.confirm.outlook import Outlook
from xraytune.confirm.outlook import study_outlook as plan
from xraytune.confirm.record import Confirmation
from xraytune.confirm.run import confirm
from xraytune.data.inspect import Inspection
from xraytune.data.inspect import inspect_folder as data_inspect
from xraytune.data.phantom import PhantomSet
from xraytune.data.phantom import paint_phantoms as data_phantom
from xraytune.draws import draws
from xraytune.judge import judge
from xraytune.model.evaluate import evaluate
from xraytune.model.export import Exported, export
from xraytune.model.extension_check import Promise, extension_check
from xraytune.model.generator_folder import (
    GeneratorSample,
    TrainedGenerator,
    generator_sample,
    generator_train,
)
from xraytune.model.predict import predict
from xraytune.model.train import Trained, train
from xraytune.present.forest import plot_verdict
from xraytune.present.page import write_report as report
from xraytune.present.studies import StudySummary, list_studies
from xraytune.search.callbacks import Callbacks
from xraytune.search.run import search
from xraytune.space.load import load_space as space_check
from xraytune.space.shipped import copy_space as space_copy
from xraytune.space.shipped import list_spaces as space_list
from xraytune.space.space import Space
from xraytune.study.clean import Cleaned
from xraytune.study.clean import clean_cache as cache_clean
from xraytune.study.status import StudyView, status, trials_dataframe
from xraytune.tasks.evaluation import Evaluation
from xraytune.tasks.prediction import Predicted

__all__ = [
    "Audit",
    "Callbacks",
    "Cleaned",
    "Confirmation",
    "Curve",
    "Drawn",
    "Evaluation",
    "Exported",
    "GeneratorSample",
    "Inspection",
    "Outlook",
    "PhantomSet",
    "Predicted",
    "Promise",
    "Space",
    "StudySummary",
    "StudyView",
    "Trained",
    "TrainedGenerator",
    "XraytuneError",
    "audit",
    "cache_clean",
    "confirm",
    "curve",
    "data_inspect",
    "data_phantom",
    "demo",
    "draws",
    "evaluate",
    "export",
    "extension_check",
    "generator_sample",
    "generator_train",
    "judge",
    "list_studies",
    "plan",
    "plot_verdict",
    "predict",
    "report",
    "search",
    "show_progress",
    "show_search",
    "space_check",
    "space_copy",
    "space_list",
    "status",
    "train",
    "trials_dataframe",
]

PLACES: dict[str, str]
