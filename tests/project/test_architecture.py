"""The rules of the architecture as tests that read the source of the project, and import only `code_of` to check it."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

from components.foundation.provenance import code_of

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for package in ("components", "pipelines", "temper") for path in (ROOT / package).rglob("*.py"))
FAMILIES = ("attacks", "datasets", "distillation", "methods", "models", "optimizers", "schedules", "threats")
# A folder imports folders of lower floors, and of its own floor none but itself.
FLOORS = (
    ("foundation",),
    ("numerics", "statistics"),
    ("schedules", "threats", "optimizers", "data"),
    ("datasets", "attacks", "models"),
    ("methods",),
    ("wrappers", "distillation", "ntk"),
    ("training",),
    ("evaluation",),
    ("reports",),
    ("deployment",),
    ("tracking",),
    ("stages",),
    ("commands",),
)
FLOOR = {folder: floor for floor, folders in enumerate(FLOORS) for folder in folders}
CORE = {"torch", "torchvision", "numpy", "pydantic", "yaml", "safetensors", "components"}
# Where a member or the report may import more, inside a function, with a clear error when it is absent.
EXTRAS = {
    "components/models/timm.py": {"timm"},
    "components/data/image_file.py": {"PIL"},
    "components/commands/survey_images.py": {"PIL"},
    "components/reports": {"jinja2", "pandas"},
    "components/deployment": {"onnxruntime"},
}
# Files of other packages, by the only place that may import them.
HOMES = {"mlflow": "components/tracking/", "prefect": "pipelines/", "dvc": "pipelines/graph.py", "typer": "temper/"}
# What changes no declared output: forwarding records, and the tables of families.
RECORDS_ONLY = "components/tracking/"
# The family members each stage executes, by the keys of params.yaml that name them.
TRAINED = ("train_clean_teacher", "train_robust_teacher", "distill_student")
MEMBERS = {
    "fetch_data": {"datasets": ["fetch_data.dataset"]},
    # Its teachers are a map: it depends on all models.
    "fetch_teachers": {"threats": ["threat"]},
    **{
        stage: {
            "models": [f"{stage}.model"],
            "methods": [f"{stage}.method"],
            "schedules": [f"{stage}.schedule"],
            "optimizers": [f"{stage}.recipe.optimizer"],
            "threats": ["threat"],
        }
        for stage in TRAINED[:2]
    },
    "distill_student": {
        "models": [f"{stage}.model" for stage in TRAINED],
        "distillation": ["distill_student.method"],
        "schedules": ["distill_student.schedule"],
        "optimizers": ["distill_student.recipe.optimizer"],
        "threats": ["threat"],
    },
    "evaluate_attacks": {
        "models": [f"{stage}.model" for stage in TRAINED],
        "attacks": ["evaluate_attacks.attacks.*"],
        "threats": ["threat"],
    },
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
        name = name_of(path)
        for package, home in HOMES.items():
            assert package not in {module.split(".")[0] for module in imports(path)} or name.startswith(home), name


def test_nothing_below_imports_the_command_line():
    for path in SOURCES:
        if not (name := name_of(path)).startswith("temper/"):
            assert "temper" not in {module.split(".")[0] for module in imports(path)}, name


def test_pipelines_start_stages_as_processes():
    """Of components they import what stands under everything, and that imports no torch."""
    for path in SOURCES:
        name = name_of(path)
        found = {".".join(module.split(".")[:2]) for module in imports(path)}
        if name.startswith("pipelines/"):
            assert not {module for module in found if module.startswith("components")} - {"components.foundation"}, name
        if name.startswith("components/foundation/"):
            assert not {module.split(".")[0] for module in found} & {"torch", "numpy", "torchvision", "safetensors"}, (
                name
            )


def test_folders_import_one_way():
    for path in (ROOT / "components").rglob("*.py"):
        folder = path.relative_to(ROOT / "components").parts[0]
        for module in imports(path):
            other = module.split(".")[1] if module.startswith("components.") else folder
            assert other == folder or FLOOR[other] < FLOOR[folder], f"{name_of(path)} imports {module}"


def test_folders_only_at_the_top_of_components():
    assert {path.name for path in (ROOT / "components").glob("*.py")} == {"__init__.py"}
    folders = {path.name for path in (ROOT / "components").iterdir() if (path / "__init__.py").exists()}
    assert folders == set(FLOOR)


def test_the_core_imports_nothing_else():
    import sys

    for path in SOURCES:
        name = name_of(path)
        if not name.startswith("components/") or name.startswith(RECORDS_ONLY):
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
        allowed = (
            name.startswith(("components/stages/", "components/commands/", "temper/"))
            or name == "components/models/parts/model_file.py"
        )
        assert not opened or allowed, f"{name} opens {opened}"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_front_of_a_family_holds_its_table_and_nothing_else(family):
    docstring, *rest = ast.parse((ROOT / "components" / family / "__init__.py").read_text()).body
    table = rest.pop()
    assert isinstance(docstring, ast.Expr) and isinstance(docstring.value, ast.Constant)
    assert all(isinstance(node, ast.Import | ast.ImportFrom) for node in rest)
    assert isinstance(table, ast.Assign | ast.AnnAssign) and isinstance(table.value, ast.Dict)


def test_no_implementation_inheritance_in_families():
    """Of classes, only a contract is built on another one: torch's module, or those of training methods."""
    allowed = {"Protocol", "NamedTuple", "nn.Module", "nn.BatchNorm2d", "pickle.Unpickler"}
    allowed |= {"Method", "Attacked", "Taught", "TaughtByEpoch"}
    for family in FAMILIES:
        for path in (ROOT / "components" / family).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    bases = {ast.unparse(base) for base in node.bases}
                    assert bases <= allowed or "Protocol" in bases, (path, node.name)


def test_nobody_asks_which_norm_it_is():
    """No text outside the family is a norm's name, but for the words of reports, which have an entry for every norm."""
    norms = table_names("threats")
    assert {"linf", "l2", "l1"} <= norms
    for path in SOURCES:
        name = name_of(path)
        if name.startswith("components/threats/") or name == "components/reports/wording.py":
            continue
        texts = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        assert not norms & {text for text in texts if isinstance(text, str)}, f"{name} knows a norm by its name"
        kinds = {f"components.threats.{norm}" for norm in norms}
        assert not kinds & set(imports(path)), f"{name} imports a norm"
    for path in (ROOT / "components").rglob("*.j2"):
        assert not re.search("|".join(f"['\"]{norm}['\"]" for norm in norms), path.read_text()), path


def test_no_drawers_and_no_deep_folders():
    forbidden = {"utils.py", "common.py", "helpers.py", "base.py", "misc.py"}
    for path in SOURCES:
        assert path.name not in forbidden, path
        assert len(path.relative_to(ROOT).parts) <= 4, path
        assert path.read_text().count("\n") <= 320, f"{name_of(path)} is long: does it hold one thing?"


def test_functions_are_short():
    """Of `temper/`, whose signatures are options and whose docstrings are manuals, what a function does counts."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                does = node.body[ast.get_docstring(node) is not None :]
                begins = does[0].lineno if does and name_of(path).startswith("temper/") else node.lineno
                lines = (node.end_lineno or 0) - begins + 1
                assert lines <= 50, f"{name_of(path)}: {node.name} has {lines} lines: does it do one thing?"


def test_no_seed_is_a_sum():
    """A stream of its own has a name (`random_numbers.derived`): sums and products of seeds meet by accident."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("manual_seed", "Noise"):
                first = node.args[0]
                assert not isinstance(first, ast.BinOp), f"{name_of(path)}: {ast.unparse(node)}"


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
    # A threat model is named by its norm.
    return [one["norm"] if "norm" in one else one["name"] for one in found]


def executed(stage: str) -> set[str]:
    """The files a stage executes: what its file imports, transitively; of a family, the members that are named."""
    open_files = [ROOT / "components" / "stages" / f"{stage}.py"]
    for family, keys in MEMBERS.get(stage, {}).items():
        open_files += [ROOT / "components" / family / f"{name}.py" for key in keys for name in selected(key)]
    seen: set[Path] = set()
    while open_files:
        path = open_files.pop()
        if path not in seen:
            seen.add(path)
            files = (file_of(module) for module in imports(path) if module.startswith("components."))
            open_files += [file for file in files if file is not None and not changes_no_number(file)]
    return {name_of(path) for path in seen}


def changes_no_number(file: Path) -> bool:
    """Forwarding of records, and what stands in front of a folder: a table of members, or a docstring."""
    is_front = file.name == "__init__.py" and file.parent.name != "stages"
    return is_front or name_of(file).startswith(RECORDS_ONLY)


def resolved(dep: str) -> str:
    def value(match: re.Match) -> str:
        found = params()
        for part in match[1].split("."):
            found = found[part]
        return str(found)

    return re.sub(r"\$\{([^}]+)\}", value, dep)


def dependencies(stage: str) -> set[str]:
    """The files and folders of code that a stage depends on."""
    deps = {resolved(dep) for dep in stages()[stage]["deps"] if not dep.endswith("files}")}
    return {dep for dep in deps if dep.startswith("components/")}


def under(file: str, deps: set[str]) -> str | None:
    """The dependency that a file is, or lies in."""
    return next((dep for dep in deps if file == dep or file.startswith(f"{dep}/")), None)


@pytest.mark.parametrize("stage", stages())
def test_every_executed_file_is_under_a_dependency(stage):
    deps = dependencies(stage)
    missing = {file for file in executed(stage) if under(file, deps) is None}
    assert not missing, f"{stage} executes but does not depend on {sorted(missing)}"
    # What a family's members share, and wrappers, are depended on whether or not they are in use just now.
    used = {under(file, deps) for file in executed(stage)}
    unused = {dep for dep in deps - used if not dep.endswith(("/parts", ".css"))}
    assert not unused, f"{stage} depends on but does not execute {sorted(unused)}"


@pytest.mark.parametrize("stage", stages())
def test_a_new_member_retrains_nothing(stage):
    whole = {dep.removeprefix("components/") for dep in dependencies(stage)} & set(FAMILIES)
    allowed = {"evaluate_attacks": {"attacks"}, "fetch_teachers": {"models"}}
    assert whole <= allowed.get(stage, set()), f"{stage} depends on all of {whole}"


def test_editors_and_caches_change_no_dependency():
    """A folder is hashed with all that lies in it, so what tools leave there must not count."""
    ignored = set((ROOT / ".dvcignore").read_text().splitlines())
    assert {"__pycache__", "*.pyc", ".*.sw?", "*~", ".*_cache", ".DS_Store"} <= ignored


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


def test_other_criteria_run_the_report_alone():
    """No other stage reads the section, or a file that only a decision executes."""
    rooms = ("components/evaluation/criteria.py", "components/reports")
    for stage, box in stages().items():
        # The words for attacks, which an evaluation that says how far it is needs too.
        deps = [dep for dep in box["deps"] if dep != "components/reports/wording.py"]
        decides = "criteria" in box["params"] or any(dep.startswith(rooms) for dep in deps)
        assert decides == (stage == "report")


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


@pytest.mark.parametrize("stage", stages())
def test_what_a_result_is_traced_to_is_what_the_stage_executes(stage):
    """`code_of` and the walk above agree, though neither knows the other."""
    roots = ["components/stages/__init__.py", f"components/stages/{stage}.py"]
    for family, keys in MEMBERS.get(stage, {}).items():
        roots += [f"components/{family}/{name}.py" for key in keys for name in selected(key)]
    assert set(code_of(roots)) == executed(stage)


def test_modules_import_in_no_circle():
    graph = {path: {file_of(module) for module in imports(path)} & set(SOURCES) for path in SOURCES}
    TopologicalSorter(graph).prepare()  # raises on a circle
