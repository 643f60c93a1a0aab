"""The rules of the architecture as tests that read source and import nothing of the project."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "components").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")])
FAMILIES = ("attacks", "datasets", "distillation", "methods", "models")
CORE = {"torch", "torchvision", "numpy", "pydantic", "yaml", "safetensors", "components"}
# Where a member or the report may import more, inside a function, with a clear error when it is absent.
EXTRAS = {"components/datasets": {"sklearn", "PIL"}, "components/report": {"jinja2"}}
# Forwarding records changes no declared output, so no stage depends on these.
RECORDS_ONLY = {f"components/{name}.py" for name in ("journal", "records", "tracking", "delivery", "serving")}
# The family members each stage executes, by the keys of params.yaml that name them.
TRAINED = ("train_clean_teacher", "train_robust_teacher", "distill_student")
MEMBERS = {
    "fetch_data": {"datasets": ["fetch_data.dataset"]},
    "train_clean_teacher": {"models": ["train_clean_teacher.model"], "methods": ["train_clean_teacher.method"]},
    "train_robust_teacher": {"models": ["train_robust_teacher.model"], "methods": ["train_robust_teacher.method"]},
    "distill_student": {
        "models": [f"{stage}.model" for stage in TRAINED],
        "distillation": ["distill_student.method"],
    },
    "evaluate_attacks": {"models": [f"{stage}.model" for stage in TRAINED], "attacks": ["evaluate_attacks.attacks.*"]},
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path, top_level_only: bool = False) -> Iterator[str]:
    """Every module a file imports, `from package import module` as package.module where that is a file."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from [module for module in inner if file_of(module)] or [node.module]


def file_of(module: str) -> Path | None:
    stem = ROOT / Path(*module.split("."))
    return next((file for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.exists()), None)


def test_orchestration_stays_where_it_belongs():
    for path in SOURCES:
        found = {module.split(".")[0] for module in imports(path)}
        name = name_of(path)
        assert "mlflow" not in found or name in ("components/tracking.py", "components/serving.py"), name
        assert "prefect" not in found or name.startswith("pipelines/"), name
        assert "dvc" not in found or name.startswith("pipelines/"), name
        assert "components" not in found or not name.startswith("pipelines/"), name


def test_the_core_imports_nothing_else():
    import sys

    for path in SOURCES:
        name = name_of(path)
        if not name.startswith("components/") or name in RECORDS_ONLY:
            continue
        extra = next((names for folder, names in EXTRAS.items() if name.startswith(folder)), set())
        found = {module.split(".")[0] for module in imports(path)} - set(sys.stdlib_module_names)
        assert found <= CORE | extra, f"{name}: {found - CORE - extra}"
        at_import = {module.split(".")[0] for module in imports(path, top_level_only=True)}
        assert not at_import & extra, f"{name} imports {at_import & extra} at import time"


def test_families_do_not_open_each_others_tables():
    tables = {f"components.{family}" for family in FAMILIES}
    for path in SOURCES:
        name = name_of(path)
        opened = tables & set(imports(path))
        # A model file cannot be read without the table that builds models.
        allowed = name.startswith("components/stages/") or name == "components/model_file.py"
        assert not opened or allowed, f"{name} opens {opened}"


def test_no_implementation_inheritance_in_families():
    for family in FAMILIES:
        for path in (ROOT / "components" / family).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    bases = {ast.unparse(base) for base in node.bases}
                    assert bases <= {"Protocol", "NamedTuple", "nn.Module", "pickle.Unpickler"}, (path, node.name)


def test_no_drawers_and_no_deep_folders():
    forbidden = {"utils.py", "common.py", "helpers.py", "base.py", "misc.py"}
    for path in SOURCES:
        assert path.name not in forbidden, path
        assert len(path.relative_to(ROOT).parts) <= 3, path
        assert path.read_text().count("\n") <= 320, f"{name_of(path)} is long: does it hold one thing?"


def test_no_pickle_is_read():
    for path in SOURCES:
        text = path.read_text()
        assert not re.search(r"torch\.load\(|pickle\.loads?\(|joblib|cloudpickle|allow_pickle=True", text), path


def params() -> dict:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


def stages() -> dict:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def selected(key: str) -> list[str]:
    """The member names under a key of params.yaml; `*` stands for every key there."""
    found: list = [params()]
    for part in key.split("."):
        found = [value for one in found for value in (one.values() if part == "*" else [one[part]])]
    return [one["name"] for one in found]


def executed(stage: str) -> set[str]:
    """The files a stage executes: what its file imports, transitively; of a family, the members that are named."""
    open_files = [ROOT / "components" / "stages" / f"{stage}.py"]
    for family, keys in MEMBERS.get(stage, {}).items():
        open_files += [ROOT / "components" / family / f"{name}.py" for key in keys for name in selected(key)]
    seen: set[Path] = set()
    while open_files:
        path = open_files.pop()
        if path in seen:
            continue
        seen.add(path)
        for module in imports(path):
            file = file_of(module) if module.startswith("components.") else None
            is_table = file is not None and file.name == "__init__.py" and file.parent.name in FAMILIES
            if file is not None and not is_table:
                open_files.append(file)
    return {name_of(path) for path in seen} - RECORDS_ONLY


def resolved(dep: str) -> str:
    def value(match: re.Match) -> str:
        found = params()
        for part in match[1].split("."):
            found = found[part]
        return str(found)

    return re.sub(r"\$\{([^}]+)\}", value, dep)


@pytest.mark.parametrize("stage", stages())
def test_every_executed_file_is_a_dependency(stage):
    deps = {resolved(dep) for dep in stages()[stage]["deps"]}
    files = {dep for dep in deps if dep.endswith(".py")}
    folders = tuple(dep for dep in deps if (ROOT / dep).is_dir() and dep.startswith("components/"))
    missing = {file for file in executed(stage) if file not in files and not file.startswith(folders or ("\0",))}
    assert not missing, f"{stage} executes but does not depend on {sorted(missing)}"
    # Parts that a family's members share are listed always: which are executed changes with the member.
    members = {f"components/{family}/{name}.py" for family in FAMILIES for name in table_names(family)}
    parts = {file for file in files if file.split("/")[1] in FAMILIES and file not in members}
    unused = files - executed(stage) - parts
    assert not unused, f"{stage} depends on but does not execute {sorted(unused)}"


def table_names(family: str) -> set[str]:
    """The keys of a family's table, which are also its members' file names: dvc.yaml relies on it."""
    tree = ast.parse((ROOT / "components" / family / "__init__.py").read_text())
    tables = [node.value for node in ast.walk(tree) if isinstance(node, (ast.Assign, ast.AnnAssign))]
    return {key.value for table in tables if isinstance(table, ast.Dict) for key in table.keys}  # type: ignore[union-attr]


@pytest.mark.parametrize("family", FAMILIES)
def test_members_are_files_of_their_name(family):
    files = {path.stem for path in (ROOT / "components" / family).glob("*.py")}
    assert table_names(family) and table_names(family) <= files


def test_stages_are_the_boxes_of_the_graph():
    declared = ast.parse((ROOT / "components/stages/__init__.py").read_text())
    table = next(
        node.value
        for node in declared.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "STAGES"
    )
    assert list(ast.literal_eval(table)) == list(stages())
    for stage, box in stages().items():
        assert box["cmd"] == f"python -m components.stages.{stage}"
        assert stage in {param.split(".")[0] for param in box["params"]}


def test_every_path_a_stage_writes_is_declared():
    """The declared outputs and no others: a forgotten one would be lost by `dvc checkout`."""
    outs = {
        path
        for box in stages().values()
        for kind in ("outs", "metrics", "plots")
        for entry in box.get(kind, [])
        for path in ([entry] if isinstance(entry, str) else list(entry))
    }
    # Wall times are no function of the inputs, so they are written beside the report and declared nowhere; models from
    # outside are no part of the graph.
    undeclared = {"reports/costs.json", "evaluation/outside"}
    pattern = re.compile(r'"((?:data|models|curves|metrics|evaluation|reports|plots)/[\w.{}]+)"')
    for path in (ROOT / "components" / "stages").glob("*.py"):
        for found in pattern.findall(path.read_text()):
            wanted = [found.replace("{name}", role).replace("{role}", role).replace("{suffix}", "") for role in ROLES]
            assert set(wanted) & (outs | undeclared), f"{path.name} uses {found}, which no stage declares"


ROLES = ("clean_teacher", "robust_teacher", "student")


@pytest.mark.parametrize("preset", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_have_the_sections_of_the_default(preset):
    sections = yaml.safe_load(preset.read_text())
    while base := sections.pop("base", None):  # a small preset replaces sections of its base
        sections = yaml.safe_load((ROOT / "presets" / f"{base}.yaml").read_text()) | sections
    assert set(sections) == set(params())
