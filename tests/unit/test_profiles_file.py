from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.profiles.catalog import Profiles, load_profiles
from pytest_sandboxes.profiles.file import read_profiles_file
from pytest_sandboxes.settings.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    Load = Callable[[str], Profiles]


def load_file(path: Path, *, source: str) -> Profiles:
    return load_profiles(Settings(profiles_file=path, sources={"profiles_file": source}))


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads a text as `sandboxes.yaml` of the working directory."""
    monkeypatch.chdir(tmp_path)

    def run(text: str) -> Profiles:
        tmp_path.joinpath("sandboxes.yaml").write_bytes(text.encode())
        return load_file(tmp_path / "sandboxes.yaml", source="sandboxes.yaml in the rootdir")

    return run


MB = "a whole number of MB above 0, up to 1073741824 or null"

MODAL_POOL = """\
profiles:
  default:
    image: python:3.11-slim
    cpu: 1.0
    memory: 2048
    slots_per_sandbox: 10
    min_sandboxes: 1
    max_sandboxes: 5
    idle_timeout: 300
    max_lifetime: 3600
    acquire_timeout_s: 60.0
    execution_timeout_s: 30.0
    workspace_base: /workspace
    app_name: my-sandboxes
  pytorch-gpu:
    image: pytorch/pytorch:2.1.0-cuda12.1-cudnn8-runtime
    gpu: A10G
    cpu: 4
    memory: 16384
    slots_per_sandbox: 2
    secrets: [huggingface, wandb]
    env_vars:
      CUDA_VISIBLE_DEVICES: "0"
      NO_COLOR: "1"
  high-memory:
    gpu: null
    memory: 65536
    min_sandboxes: 0
    secrets: []
    env_vars: {}
"""


def test_a_file_of_modal_pools_loads_unchanged(load: Load) -> None:
    profiles = load(MODAL_POOL)

    assert profiles.names == ("default", "pytorch-gpu", "high-memory")
    gpu = profiles.get("pytorch-gpu", "here")
    assert (gpu.name, gpu.gpu, gpu.cpu, gpu.memory) == ("pytorch-gpu", "A10G", 4.0, 16384)
    assert gpu.secrets == ("huggingface", "wandb")
    assert gpu.env_vars == {"CUDA_VISIBLE_DEVICES": "0", "NO_COLOR": "1"}
    assert gpu.source("memory") == "sandboxes.yaml:19"
    assert gpu.source("env_vars") == "sandboxes.yaml:22"
    assert gpu.source("network") == "default"
    assert profiles.get("default", "here").max_lifetime == 3600


def test_profiles_may_be_empty(load: Load) -> None:
    profiles = load("profiles:\n  a:\n  b: {}\n  c: ~\n")

    empty = load_profiles(Settings()).get("default", "here")
    for name in "abc":
        profile = profiles.get(name, "here")
        assert (profile.name, profile.sources, profile.digest) == (name, {}, empty.digest)


def test_aliases_and_merge_keys(load: Load) -> None:
    profiles = load(
        "profiles:\n"
        "  base: &base\n"
        "    memory: 64\n"
        "    env_vars: &env {A: '1'}\n"
        "  small: &small\n"
        "    memory: 32\n"
        "    cpu: 1\n"
        "  one:\n"
        "    <<: *base\n"
        "    memory: 128\n"
        "  two:\n"
        "    disk: 1\n"
        "    <<: [*small, *base]\n"
        "  three:\n"
        "    env_vars: *env\n"
    )

    one, two, three = (profiles.get(name, "here") for name in ("one", "two", "three"))
    assert (one.memory, one.env_vars, one.source("env_vars")) == (128, {"A": "1"}, "sandboxes.yaml:4")
    assert (two.memory, two.cpu, two.disk, two.env_vars) == (32, 1.0, 1, {"A": "1"})
    assert three.env_vars == {"A": "1"}


def test_keys_are_names_whatever_yaml_takes_them_for(load: Load) -> None:
    profile = load("profiles:\n  on:\n    env_vars: {NO: 'a', 1: 'b', null: 'c', 1.0: 'd'}\n").get(
        "on", "here"
    )

    assert profile.env_vars == {"NO": "a", "1": "b", "null": "c", "1.0": "d"}


def test_a_section_of_a_backend(load: Load) -> None:
    text = "profiles:\n  default:\n    docker: {labels: {team: x}, ulimits: [1, 2.5, true, null]}\n"

    assert load(text).get("default", "here").docker == {
        "labels": {"team": "x"},
        "ulimits": [1, 2.5, True, None],
    }


def test_numbers_that_nobody_mistakes(load: Load) -> None:
    section = "{a: 1_000, b: 0x10, c: -5, d: 1.5e+3, e: .5, f: True, g: 0, h: 0b11, i: +7}"
    profile = load(f"profiles: {{a: {{modal: {section}}}}}").get("a", "here")

    assert list(profile.modal.values()) == [1000, 16, -5, 1500.0, 0.5, True, 0, 3, 7]


def test_a_byte_order_mark_is_no_mistake(load: Load) -> None:
    assert load("\ufeffprofiles: {a: {}}").names == ("default", "a")


def profile(fields: str) -> str:
    return f"profiles:\n  a:\n    {fields}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": the file is empty; it must have a mapping called 'profiles'"),
        ("# nothing\n", ": the file is empty; it must have a mapping called 'profiles'"),
        ("{}", ": there is no mapping called 'profiles'"),
        ("just text", ":1: the file must be a mapping, not 'just text'"),
        ("- a\n", ":1: the file must be a mapping, not a list"),
        ("profiles:\n", ":1: 'profiles' must be a mapping, not empty"),
        ("profiles: [a]\n", ":1: 'profiles' must be a mapping, not a list"),
        ("\nprofile: {}\n", ":2: unknown key 'profile'; did you mean 'profiles'?"),
        ("profiles: {}\nversion: 2\n", ":2: unknown key 'version'"),
        ("profiles:\n  a: 3\n", ":2: profile 'a' must be a mapping, not '3'"),
        ("profiles:\n  a: {}\n  a: {}\n", ":3: 'a' is already in 'profiles', on line 2"),
        (profile("memory: 1\n    memory: 1"), ":4: 'memory' is already in profile 'a', on line 3"),
        (profile("env_vars: {A: a, A: b}"), ":3: 'A' is already in the mapping, on line 3"),
        (profile("? [memory]\n    : 2"), ":3: a key of profile 'a' must be text, not a list"),
        (profile("<<: 3"), ":3: what '<<' merges must be a mapping, not '3'"),
        (
            profile("image: 2020-01-01"),
            ":3: YAML's type 'timestamp' has no meaning here; for text, put it in quotes",
        ),
        (
            profile("image: !!python/name:os.system x"),
            ":3: YAML's type 'python/name:os.system' has no meaning here; for text, put it in quotes",
        ),
        (profile("memory: !!int x"), ":3: 'x' is no int"),
        (profile("memory: !!bool x"), ":3: 'x' is no bool"),
        (profile("memory: !!float x"), ":3: 'x' is no float"),
        (
            profile("memory: '2'"),
            ":3, profile 'a': memory is '2' (str), but must be " + MB + "; write 2 without quotes",
        ),
        (
            profile("memory: 1e3"),
            ":3, profile 'a': memory is '1e3' (str), but must be " + MB + "; write 1000 without quotes",
        ),
        (profile("memory: true"), ":3, profile 'a': memory is True (bool), but must be " + MB),
        (profile("network: no"), ":3: YAML takes 'no' for false; write false, or put it in quotes"),
        (
            profile("env_vars: {A: On}"),
            ":3: YAML takes 'On' for true; write true, or put it in quotes",
        ),
        (
            profile("modal: {cloud: [a, yes]}"),
            ":3: YAML takes 'yes' for true; write true, or put it in quotes",
        ),
        (
            profile("execution_timeout_s: 1:30"),
            ":3: YAML takes '1:30' for 90; write 90, or put it in quotes",
        ),
        (
            profile("execution_timeout_s: 1:30.5"),
            ":3: YAML takes '1:30.5' for 90.5; write 90.5, or put it in quotes",
        ),
        (profile("memory: 0100"), ":3: YAML takes '0100' for 64; write 64, or put it in quotes"),
        (
            profile("extends: [b]"),
            ":3: extends of profile 'a' must be the name of one profile, not a list",
        ),
        (profile("extends:"), ":3: extends of profile 'a' must be the name of one profile, not empty"),
        (
            profile("extends: defalt"),
            ":3: profile 'a' extends 'defalt', which is none, there are default and a; did you mean 'default'?",
        ),
        (profile("extends: a"), ":3: profile 'a' extends itself: name another profile, or leave extends out"),
        (
            "profiles:\n  a: {extends: c}\n  b:\n    extends: a\n  c: {extends: b}\n",
            ":2: profile 'a' extends 'c', which extends 'b', which extends 'a'; one of them must not",
        ),
        (
            "profiles:\n  a: {extends: b}\n  b: {memory: lots}\n",
            ":3, profile 'b': memory is 'lots' (str), but must be " + MB,
        ),
        (profile("docker:\n      a: 1\n      a: 2"), ":5: 'a' is already in the mapping, on line 4"),
        (
            profile("cpu: .nan"),
            ":3, profile 'a': cpu is nan (float), but must be a number of cores above 0 or null",
        ),
        (profile("memroy: 2"), ":3, profile 'a': unknown profile field 'memroy'; did you mean 'memory'?"),
        (
            profile("a: 1\n\tb: 2"),
            ":4: not valid YAML: while scanning for the next token, found character '\\t' that cannot start any token; correct it there or just above",
        ),
        (
            "profiles: {a: *b}",
            ":1: not valid YAML: found undefined alias 'b'; correct it there or just above",
        ),
        (
            "a: 1\n--- 2",
            ":2: not valid YAML: expected a single document in the stream from line 1, but found another document; correct it there or just above",
        ),
        (
            "a: [\n",
            ":1: not valid YAML: while parsing a flow node from line 1, expected the node content, but found '<stream end>'; correct it there or just above",
        ),
        ("a: 1\nb: \x01\n", ":2: not valid YAML: special characters are not allowed"),
        ("[" * 5000, ": nested too deeply"),
    ],
)
def test_mistakes_are_named_with_their_line(load: Load, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(text)

    assert str(caught.value) == "sandboxes.yaml" + message


@pytest.mark.parametrize("name", ["a b", "", "-a", ".a", "a/b", "é", "a" * 64, "a\\nb"])
def test_names_that_cannot_be(load: Load, name: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^sandboxes.yaml:2: '.*' cannot name a profile; a name has"
    ):
        load(f'profiles:\n  "{name}": {{}}\n')


@pytest.mark.parametrize(
    "text",
    [
        "profiles: &a\n  x: *a\n",
        "profiles:\n  x: &a\n    docker: {again: *a}\n",
        "profiles:\n  x: &a\n    docker: [*a]\n",
        "profiles:\n  x: &a\n    <<: *a\n",
        "profiles:\n  a0: &a0 {docker: {}}\n"
        + "".join(f"  a{n}: &a{n} {{docker: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 9)),
        "profiles:\n  a0: &a0 {memory: 1}\n"
        + "".join(f"  a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 9)),
    ],
    ids=["cycle", "cycle-mapping", "cycle-list", "cycle-merge", "bomb", "bomb-merge"],
)
def test_alias_bombs_are_refused(load: Load, text: str) -> None:
    with pytest.raises(ConfigurationError, match="with all aliases expanded, the file has over 50000 values"):
        load(text)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_file(tmp_path / "none.yaml", source="--sandbox-profiles-file")

    assert str(caught.value).endswith(
        "none.yaml (--sandbox-profiles-file): No such file or directory; correct the path or make the file"
    )


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read .* \(here\): Is a directory"):
        load_file(tmp_path, source="here")


def test_an_endless_file() -> None:
    with pytest.raises(
        ConfigurationError, match=r"profiles file /dev/zero \(here\) is larger than 262144 bytes"
    ):
        load_file(Path("/dev/zero"), source="here")


def test_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "conf.yaml"
    path.write_bytes(b"profiles:\n  a:\n    image: \xff\n")

    with pytest.raises(ConfigurationError, match=r"conf\.yaml:3: not UTF-8"):
        load_file(path, source="here")


class TestLabel:
    def test_relative_below_the_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "sub" / "conf.yaml"
        path.parent.mkdir()
        path.write_text("profiles: {a: {memory: 1}}")
        monkeypatch.chdir(tmp_path)

        assert read_profiles_file(path, "here")["a"].sources == {"memory": "sub/conf.yaml:1"}

    def test_absolute_elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "conf.yaml"
        path.write_text("profiles: {a: {memory: 1}}")
        tmp_path.joinpath("sub").mkdir()
        monkeypatch.chdir(tmp_path / "sub")

        assert read_profiles_file(path, "here")["a"].sources == {"memory": f"{path}:1"}


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.binary()
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(SCALARS, inner), max_leaves=8)


def refused_or_loaded(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        load_file(path, source="here")
    except ConfigurationError as error:
        assert str(error) == one_line(str(error), 1000)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files") / "conf.yaml"


@given(content=st.binary() | st.text().map(lambda text: f"profiles: {{a: {{memory: {text}}}}}".encode()))
def test_any_bytes_are_loaded_or_refused(path: Path, content: bytes) -> None:
    refused_or_loaded(path, content)


@given(field=st.sampled_from(["image", "memory", "cpu", "env_vars", "docker", "setup"]), value=TREES)
def test_any_value_is_loaded_or_refused(path: Path, field: str, value: object) -> None:
    refused_or_loaded(path, yaml.safe_dump({"profiles": {"a": {field: value}}}, allow_unicode=True).encode())


@given(tree=TREES)
def test_any_document_is_loaded_or_refused(path: Path, tree: object) -> None:
    refused_or_loaded(path, yaml.safe_dump(tree).encode())


@given(
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_plain_data_arrives_as_it_was_written(path: Path, value: object) -> None:
    path.write_text(yaml.safe_dump({"profiles": {"a": {"docker": {"key": value}}}}), encoding="utf-8")

    assert read_profiles_file(path, "here")["a"].values == {"docker": {"key": value}}
