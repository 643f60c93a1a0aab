"""A training stage captures its steps as params.yaml says, and writes the same bytes either way."""

from components.stages import training_stage
from components.training.capture import Capture
from tests.parts.pipeline_files import make_project, run_here
from tests.parts.tape_graph import TapeGraph

STAGE = "train_clean_teacher"


def test_a_stage_captures_as_its_parameters_say(copied, monkeypatch):
    monkeypatch.setattr(training_stage, "Capture", lambda mode, tell: Capture(mode, tell, TapeGraph))
    replays, models = [], []
    for mode in ("auto", "off"):
        TapeGraph.made = []
        make_project(copied, seed=5, **{"compute.capture": mode, f"{STAGE}.recipe.epochs": 3})
        run_here(copied, STAGE)
        replays.append(sum(graph.replays for graph in TapeGraph.made))
        models.append((copied / "models" / "clean_teacher.safetensors").read_bytes())
    assert replays[0] and not replays[1]
    assert models[0] == models[1]
