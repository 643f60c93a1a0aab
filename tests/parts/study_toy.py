"""A toy project with a study: stages that are done in no time, note each start, and can hang or refuse."""

from pathlib import Path

DVC_YAML = """\
stages:
  fetch_data:
    deps: [components/stages/fetch_data.py]
    params: [fetch_data]
    outs: [data/raw.safetensors]
  normalize_data:
    deps: [components/stages/normalize_data.py, data/raw.safetensors]
    params: [seed]
    outs: [data/normalized.safetensors]
  train_robust_teacher:
    deps:
      - components/stages/train_robust_teacher.py
      - components/methods/${train_robust_teacher.method.name}.py
      - data/normalized.safetensors
    params: [seed, train_robust_teacher]
    outs: [models/robust_teacher.safetensors, models/robust_teacher.last.safetensors]
    metrics: [metrics/robust_teacher.json]
    plots: [{curves/robust_teacher.csv: {x: epoch}}]
  evaluate_attacks:
    deps: [components/stages/evaluate_attacks.py, models/robust_teacher.safetensors]
    params: [seed, evaluate_attacks]
    outs: [evaluation/outcomes.safetensors]
"""
PRESET = """\
seed: 7
fetch_data: {of: toys}
train_robust_teacher:
  method: {name: slow, steps: 1}
  does: works
evaluate_attacks:
  attacks: {fgsm: 1, pgd: 2}
  curve_attack: pgd
  transfer_attacks: [fgsm]
  cascade: quick
  cascade_epsilons: []
  curve_epsilons: [0, 1]
  grid: {epsilons: [1], attacks: {fgsm: 1}}
  last_epoch_attacks: [pgd]
"""
STUDY = """\
question: Which?
claim: None.
role: robust_teacher
roles: {}
robust: pgd
figure: points
transfer: last
seeds: [0, 1]
scales:
  cpu:
    preset: digits
    set: {train_robust_teacher.method.steps: 3}
    arms: {quick-big: {train_robust_teacher.method.steps: 9}}
variants: {small: {train_robust_teacher.method.steps: 4}, big: {train_robust_teacher.method.steps: 5}}
crossed: [quick]
arms:
  quick: {train_robust_teacher.method: {name: quick, steps: 1}}
  slow: {}
pairs: [[slow, quick-big]]
"""
# The same program for every stage: it notes its start, does what its section says, and writes what it should.
STAGE = """\
import json, os, pathlib, sys, time
import yaml

name = pathlib.Path(__file__).stem
params = yaml.safe_load(open("params.yaml"))
with open(os.environ["TOY_JOURNAL"], "a") as journal:
    print(name, os.environ["TEMPER_PIPELINE"], os.environ["MLFLOW_EXPERIMENT_NAME"], file=journal)
does = params["train_robust_teacher"]["does"] if name == "train_robust_teacher" else "works"
if does == "refuses":
    print("train: error: does: got refuses", file=sys.stderr)
    sys.exit(2)
if does == "fails":
    raise RuntimeError("no luck")
if does == "hangs" and not os.path.exists(os.environ["TOY_JOURNAL"] + ".go"):
    time.sleep(60)
files = {
    "fetch_data": ["data/raw.safetensors"],
    "normalize_data": ["data/normalized.safetensors"],
    "train_robust_teacher": [
        "models/robust_teacher.safetensors",
        "models/robust_teacher.last.safetensors",
        "metrics/robust_teacher.json",
        "curves/robust_teacher.csv",
    ],
    "evaluate": ["evaluation/evaluation.json", "evaluation/outcomes.safetensors", "evaluation/robustness.json"],
}[name]
text = json.dumps(params["train_robust_teacher"]["method"]) + str(params["seed"]) + " ".join(sys.argv[1:])
for path in files:
    pathlib.Path(path).parent.mkdir(exist_ok=True)
    pathlib.Path(path).write_text(text)
"""
# Stands in for the command `temper` in processes: checks nothing, evaluates as a stage works, collects names.
COMMAND = """\
import json, pathlib, runpy, sys

command, *told = sys.argv[1:]
if command == "evaluate":
    sys.argv = sys.argv[1:]
    runpy.run_path(pathlib.Path(__file__).parents[1] / "components/commands/evaluate.py")
if command == "study-table":
    plan, out = json.load(open(told[0])), pathlib.Path(told[1])
    out.mkdir(exist_ok=True)
    out.joinpath("cpu.md").write_text(" ".join(f"{run['name']}-{run['seed']}" for run in plan["runs"]))
"""
FILES = {
    "dvc.yaml": DVC_YAML,
    "presets/digits.yaml": PRESET,
    "studies/toy/study.yaml": STUDY,
    "components/__init__.py": "",
    "components/methods/slow.py": "",
    "components/methods/quick.py": "",
    "components/stages/__init__.py": "",
    "components/commands/evaluate_options.py": "",
    "components/stages/evaluate_attacks.py": "",
    "temper/__init__.py": "",
    "temper/__main__.py": COMMAND,
} | {
    f"components/{name}.py": STAGE
    for name in ("stages/fetch_data", "stages/normalize_data", "stages/train_robust_teacher", "commands/evaluate")
}


def make_toy(root: Path) -> Path:
    """The toy project in `root`, where nothing has run yet."""
    for path, text in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root
