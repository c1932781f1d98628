"""A model with gigabytes of weights in a sparse file, and what it takes to work with it.

Run as a script, it prints the memory of its own process at each step, as JSON.
"""

import json
import sys
from pathlib import Path

from helpers.tiny_graphs import TEXT_DIMS, Builder, value
from onnx import TensorProto

__all__ = ["measure", "write_large"]

VOCABULARY, WIDTH, HIDDEN = 16, 4096, 8192
BLOCK = 2 * WIDTH * HIDDEN * 4


def write_large(folder: Path, gigabytes: float) -> Path:
    """A stack of residual MLP blocks over an embedding; the file takes no place on the disk."""
    g = Builder(0)
    path, end = folder / "model.onnx", 0

    def weight(name: str, rows: int, columns: int) -> str:
        nonlocal end
        size = rows * columns * 4
        tensor = TensorProto(
            name=name,
            dims=[rows, columns],
            data_type=TensorProto.FLOAT,
            data_location=TensorProto.EXTERNAL,
        )
        entries = {"location": "model.onnx.data", "offset": end, "length": size}
        for key, text in entries.items():
            tensor.external_data.add(key=key, value=str(text))
        g.weights.append(tensor)
        end += size
        return name

    stream = g.op("Gather", [weight("table", VOCABULARY, WIDTH), "input_ids"], "x")
    for i in range(int(gigabytes * 2**30 // BLOCK) + 1):
        g.op("MatMul", [stream, weight(f"w{i}.up", WIDTH, HIDDEN)], f"b{i}.pre")
        g.op("Relu", [f"b{i}.pre"], f"b{i}.hidden")
        g.op("MatMul", [f"b{i}.hidden", weight(f"w{i}.down", HIDDEN, WIDTH)], f"b{i}.mlp")
        stream = g.op("Add", [stream, f"b{i}.mlp"], f"b{i}.out")
    path.write_bytes(g.model([value("input_ids", TEXT_DIMS)], [stream]).SerializeToString())
    with (folder / "model.onnx.data").open("wb") as file:
        file.truncate(end)
    return path


def measure(path: Path) -> dict[str, dict[str, float]]:
    """Peak resident and largest private memory in MB, of this process, after each step."""
    from onnxloc.bundle import Bundle
    from onnxloc.graph.load import load_graph
    from onnxloc.graph.plan import Edit, Plan, Tap
    from onnxloc.graph.rewrite import instrument
    from onnxloc.graph.sites import SiteTable, Trace, find_sites
    from onnxloc.graph.topology import Topology
    from onnxloc.runtime.model import Model

    steps = {"imports": _memory()}
    bundle = Bundle.open(path)
    graph = load_graph(bundle)
    steps["opened"] = _memory()
    topology = Topology(graph.proto)
    # What the runs of a session would show, taken from the inferred types.
    sizes = ((2, 5), (3, 7))
    known = (*graph.proto.graph.value_info, *graph.proto.graph.output)
    traces = {
        one.name: Trace(
            "float32",
            tuple((*size, one.type.tensor_type.shape.dim[-1].dim_value) for size in sizes),
        )
        for one in known
    }
    table = SiteTable(find_sites(topology, traces, sizes))
    steps["inspected"] = _memory()
    plan = Plan(
        taps=tuple(Tap(site.tensor, "mean") for site in table),
        edits=tuple(Edit(site.tensor) for site in table),
        outputs=tuple(value.name for value in graph.proto.graph.output),
    )
    built = instrument(graph, table, plan)
    assert len(built.tap_outputs) == len(table) > 0
    built.proto.SerializeToString()
    steps["instrumented"] = _memory()
    found = Model(bundle, graph).sites
    assert {site.tensor for site in found} == {site.tensor for site in table}
    assert {site.units for site in found} == {WIDTH, HIDDEN}
    steps["probed"] = _memory()
    return steps


def _memory() -> dict[str, float]:
    """Peak resident memory, and what of the present one is private: mapped files can be dropped."""
    lines = Path("/proc/self/status").read_text().splitlines()
    entries = dict(line.split(":", 1) for line in lines)
    return {
        name: int(entries[key].split()[0]) / 1024
        for name, key in (("peak", "VmHWM"), ("private", "RssAnon"))
    }


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
