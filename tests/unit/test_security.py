"""What the code may not do, whoever writes it: every file of the package is walked."""

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
FILES = sorted(file for name in ("onnxloc", "exporters", "models", "examples")
               for file in (ROOT / name).rglob("*.py"))  # fmt: skip
PAGES = [file for kind in ("*.html", "*.js") for file in sorted((ROOT / "onnxloc").rglob(kind))]

# Loaders that run what they read, and formats that hold code.
MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve",
           "yaml", "ruamel", "commands", "pty", "telnetlib", "ftplib", "xmlrpc", "tarfile",
           "requests", "httpx", "aiohttp"}  # fmt: skip
BUILTINS = {"eval", "exec", "compile", "__import__", "input", "breakpoint"}
METHODS = {"extractall", "extract", "unpack_archive", "read_pickle", "to_pickle", "unsafe_load",
           "popen", "system", "mktemp", "execv", "execve", "execvp", "spawnl", "spawnv",
           "_create_unverified_context", "urlretrieve", "urlopen"}  # fmt: skip
# Settings that switch a guard off, whatever they are passed to.
SETTINGS = {"shell": True, "allow_pickle": True, "trust_remote_code": True, "verify": False,
            "weights_only": False, "autoescape": False, "use_safetensors": False}  # fmt: skip
# Loaders that are unsafe unless a setting says otherwise.
NEEDED = {"np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False),
          "torch.load": ("weights_only", True), "Environment": ("autoescape", True)}  # fmt: skip
# Who may talk to the network, or start programs.
RESERVED = {
    "urllib.request": {"onnxloc/download.py"},
    "http.client": {"onnxloc/download.py"},
    "subprocess": {"onnxloc/download.py"},
    "http.server": {"onnxloc/view/server.py"},
    "socket": {"onnxloc/view/server.py"},
    "ssl": set(),
}
MARKUP = {"onnxloc/report/page.py"}


def dotted(node):
    """A name such as ``np.load``; ``.load`` for a method of what has no name."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def imported(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def faults(tree, place):
    """What a file does that it may not, with the line."""
    for node in ast.walk(tree):
        for name in imported(node):
            if name.partition(".")[0] in MODULES:
                yield node.lineno, f"imports {name}"
            for reserved, places in RESERVED.items():
                if (name == reserved or name.startswith(f"{reserved}.")) and place not in places:
                    yield node.lineno, f"imports {name}"
        if isinstance(node, ast.Call):
            yield from ((node.lineno, why) for why in _call_faults(node, place))


def _call_faults(call, place):
    name = dotted(call.func)
    last = name.rpartition(".")[2]
    if name in BUILTINS or (last in METHODS and name != last):
        yield f"calls {name}"
    if last == "Markup" and place not in MARKUP:
        yield "calls Markup"
    given = {word.arg: word.value for word in call.keywords}
    for setting, wrong in SETTINGS.items():
        value = given.get(setting)
        if value is not None and (not isinstance(value, ast.Constant) or value.value is wrong):
            yield f"sets {setting}"
    needed = NEEDED.get(name) or NEEDED.get(last)
    if needed:
        setting, right = needed
        value = given.get(setting)
        if not isinstance(value, ast.Constant) or value.value is not right:
            yield f"calls {name} without {setting}={right}"


BAD = [
    "import pickle",
    "from yaml import safe_load",
    "import subprocess",
    "from urllib.request import urlopen",
    "import urllib.request",
    "from http.client import HTTPConnection",
    "def f():\n    import joblib",
    "eval(text)",
    "exec(text)",
    "os.system('ls')",
    "archive.extractall(folder)",
    "run(words, shell=True)",
    "run(words, shell=unknown)",
    "np.load(path)",
    "np.load(path, allow_pickle=True)",
    "torch.load(path)",
    "Auto.from_pretrained(name, trust_remote_code=True)",
    "Environment(loader=x)",
    "jinja2.Environment(loader=x)",
    "zipfile.ZipFile(path).extractall()",
    "Environment(autoescape=False)",
    "Markup(text)",
    "tempfile.mktemp()",
]


@pytest.mark.parametrize("code", BAD)
def test_the_walk_sees_what_is_wrong(code):
    assert list(faults(ast.parse(code), "onnxloc/x.py"))


@pytest.mark.parametrize(
    "code",
    ["model.eval()", "Model().eval()", "re.compile(x)", "import http",
     "np.load(p, allow_pickle=False)", "Environment(autoescape=True)",
     "torch.load(p, weights_only=True)", "run(w, shell=False)"],
)  # fmt: skip
def test_the_walk_lets_pass_what_is_right(code):
    assert not list(faults(ast.parse(code), "onnxloc/x.py"))


def test_no_file_does_what_it_may_not():
    assert len(FILES) > 200
    found = [
        f"{file.relative_to(ROOT)}:{line}: {why}"
        for file in FILES
        for line, why in faults(
            ast.parse(file.read_text(encoding="utf-8")), file.relative_to(ROOT).as_posix()
        )
    ]
    assert found == []


def test_pages_escape_and_run_nothing_from_text():
    wrong = re.compile(
        r"\|\s*safe\b|autoescape|innerHTML|outerHTML|insertAdjacentHTML|document\.write"
        r"|\beval\(|new Function|srcdoc|src=[\"']https?:|href=[\"']javascript:"
    )
    assert PAGES
    for page in PAGES:
        assert not wrong.search(page.read_text(encoding="utf-8")), page
    for bad in ("{{ x|safe }}", "{{ x | safe }}", "a.innerHTML = b", "new Function(x)"):
        assert wrong.search(bad)


def test_what_is_imported_by_name_is_named_by_the_program_or_its_user():
    """Modules are imported by a name from outside in three places, each of which checks it."""
    found = {
        file.relative_to(ROOT).as_posix()
        for file in FILES
        if re.search(r"\bimport_module\(", file.read_text(encoding="utf-8"))
    }
    assert found == {
        # Constants of the program.
        "onnxloc/__init__.py",
        "onnxloc/cli/lazy.py",
        "onnxloc/stimuli/make_nonwords.py",
        # Entry points of installed packages.
        "onnxloc/registry.py",
        # Functions of onnxloc_models, by a recipe.
        "onnxloc/recipes.py",
        # What the user's own command line names.
        "exporters/user_function.py",
    }
