"""The counts of systolic arrays against SCALE-Sim, where it is installed and runs."""

import csv

import pytest

from ext.systolic import DATAFLOWS, Array
from hwmodels.cycle.systolic import gemm

SHAPES = [(1, 96, 64), (7, 64, 128), (40, 100, 60)]
CONFIG = """[general]
run_name = check
[architecture_presets]
ArrayHeight: 8
ArrayWidth: 16
IfmapSramSzkB: 1024
FilterSramSzkB: 1024
OfmapSramSzkB: 1024
IfmapOffset: 0
FilterOffset: 10000000
OfmapOffset: 20000000
Bandwidth: 10
Dataflow: {dataflow}
MemoryBanks: 1
ReadRequestBuffer: 32
WriteRequestBuffer: 32
[layout]
IfmapCustomLayout: False
IfmapSRAMBankBandwidth: 10
IfmapSRAMBankNum: 10
IfmapSRAMBankPort: 2
FilterCustomLayout: False
FilterSRAMBankBandwidth: 10
FilterSRAMBankNum: 10
FilterSRAMBankPort: 2
[sparsity]
SparsitySupport: false
SparseRep: ellpack_block
OptimizedMapping: false
BlockSize: 8
RandomNumberGeneratorSeed: 40
[run_presets]
InterfaceBandwidth: CALC
UseRamulatorTrace: False
"""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_cycles_equal_scale_sims(tmp_path, dataflow):
    scale_sim = pytest.importorskip("scalesim.scale_sim", reason="SCALE-Sim is not installed")
    config, topology, layout = (tmp_path / name for name in ("c.cfg", "t.csv", "l.csv"))
    config.write_text(CONFIG.format(dataflow=dataflow))
    topology.write_text(
        "Layer,M,N,K,\n" + "".join(f"g{i},{m},{n},{k},\n" for i, (m, n, k) in enumerate(SHAPES))
    )
    layout.write_text("Layer,\n" + "".join(f"g{i}," + "1," * 18 + "\n" for i in range(len(SHAPES))))
    try:
        run = scale_sim.scalesim(
            save_disk_space=True, verbose=False, config=str(config), topology=str(topology),
            layout=str(layout), input_type_gemm=True,
        )  # fmt: skip
        run.run_scale(top_path=str(tmp_path))
    except TypeError as error:  # its release 3.0.0 does not run on NumPy 2.4
        pytest.skip(f"SCALE-Sim does not run here: {error}")
    report = next(tmp_path.glob("**/COMPUTE_REPORT.csv")).read_text().splitlines()
    for shape, row in zip(SHAPES, list(csv.reader(report))[1:], strict=True):
        assert gemm(Array(8, 16, dataflow), *shape).cycles == float(row[2]) + 1
