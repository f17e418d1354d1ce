"""What a layer is said to hold, read from what installers leave and from what strangers may."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from era.sessions import inventory

GO_MOD = """module session

go 1.22

require example.com/one v1.2.0

require (
	example.com/two v0.0.0-20240101000000-abcdefabcdef // indirect
	"not a line"
)

exclude (
	example.com/three v1.0.0
)

replace (
	example.com/four v1.0.0 => example.com/five v1.0.0
)
"""


def write(layer: Path, path: str, text: str) -> None:
    (layer / path).parent.mkdir(parents=True, exist_ok=True)
    (layer / path).write_text(text)


def test_each_kind_is_read_from_its_own_records(tmp_path: Path) -> None:
    write(
        tmp_path,
        "python/ruamel_yaml-0.18.dist-info/METADATA",
        "Metadata-Version: 2.1\nName: ruamel.yaml\nVersion: 0.18\n\nName: description\n",
    )
    write(tmp_path, "python/bare-1.0.dist-info/RECORD", "")
    packages = {
        "node_modules/ms": {"version": "2.1.3"},
        "node_modules/@own/a/node_modules/ms": {"version": "1.0.0"},
        "node_modules/short": {"name": "long", "version": "3.0.0"},
        "node_modules/link": {"link": True},
    }
    write(tmp_path, "node/node_modules/.package-lock.json", json.dumps({"packages": packages}))
    write(tmp_path, "go/go.mod", GO_MOD)
    found = inventory.installed(str(tmp_path), ("pip", "npm", "go", "commands"))
    assert found == {
        "pip": ["bare==1.0", "ruamel.yaml==0.18"],
        "npm": ["long==3.0.0", "ms==1.0.0", "ms==2.1.3"],
        "go": ["example.com/one==v1.2.0", "example.com/two==v0.0.0-20240101000000-abcdefabcdef"],
    }
    assert inventory.installed(str(tmp_path), ("go",)).keys() == {"go"}
    assert inventory.from_text(inventory.as_text(found)) == found


def test_nothing_is_read_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    write(outside, "six-1.0.dist-info/METADATA", "Name: secret\nVersion: 1\n")
    write(outside, "go.mod", "require example.com/secret v1.0.0\n")
    layer = tmp_path / "layer"
    (layer / "go").mkdir(parents=True)
    os.symlink(outside, layer / "python")
    os.symlink(outside / "go.mod", layer / "go/go.mod")
    assert inventory.installed(str(layer), ("pip", "go")) == {"pip": [], "go": []}
    (layer / "python").unlink()
    os.rename(outside, layer / "python")
    assert inventory.installed(str(layer), ("pip",)) == {"pip": ["secret==1"]}


@given(
    st.binary(max_size=300), st.sampled_from(["[1]", '{"packages":[2]}', '{"packages":{"a":3}}'])
)
def test_no_record_breaks_it(text: bytes, shape: str) -> None:
    with tempfile.TemporaryDirectory(prefix="era-inventory-") as folder:
        for record in (text, shape.encode()):
            lock = Path(folder) / "node/node_modules/.package-lock.json"
            lock.parent.mkdir(parents=True, exist_ok=True)
            lock.write_bytes(record)
            info = Path(folder) / "python/x.dist-info"
            info.mkdir(parents=True, exist_ok=True)
            (info / "METADATA").write_bytes(record)
            found = inventory.installed(folder, ("pip", "npm", "go"))
            assert found["npm"] == found["go"] == []
            assert len(found["pip"]) == 1


def test_names_that_are_no_text_for_people_are_left_out(tmp_path: Path) -> None:
    """As do the names themselves, so does what the records say."""
    (tmp_path / "python").mkdir()
    for name in (b"cut\xff-1", b"red\x1b[31m-1", b"two\nlines-1", "größe-1".encode()):
        os.mkdir(os.fsencode(tmp_path / "python") + b"/" + name + b".dist-info")
    packages = {
        "node_modules/ms": {"version": "2.1.3"},
        "node_modules/zero": {"version": "\0"},
        "node_modules/half": {"version": "\ud800"},
        "node_modules/\x1b[2J": {"version": "1"},
    }
    write(tmp_path, "node/node_modules/.package-lock.json", json.dumps({"packages": packages}))
    found = inventory.installed(str(tmp_path), ("pip", "npm"))
    assert found == {"pip": ["größe==1"], "npm": ["ms==2.1.3"]}


def test_a_list_too_long_to_be_read_names_nothing(tmp_path: Path) -> None:
    packages = {"node_modules/ms": {"version": "2.1.3"}, "": {"more": "x" * (8 << 20)}}
    write(tmp_path, "node/node_modules/.package-lock.json", json.dumps({"packages": packages}))
    assert inventory.installed(str(tmp_path), ("npm",)) == {"npm": []}
