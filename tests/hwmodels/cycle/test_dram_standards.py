"""Files of DRAM standards: what they must hold, what is refused, peaks that close."""

import pytest

from codesign.base.errors import ConfigError
from hwmodels.cycle.standards import load_part, load_standard, named_part, names, read_timings

HEADER = "cfg,geo_ch_pc_ra_bg_ba_ro_co,tCK_ps,nBL\n"


def test_the_library_holds_the_standards_that_matter():
    wanted = {"hbm2", "hbm2e", "hbm3", "hbm3e", "hbm4", "ddr4", "ddr5", "lpddr5", "lpddr5x", "gddr6"}
    assert wanted <= set(names())


@pytest.mark.parametrize("name", names())
def test_every_grade_and_organisation_builds_and_has_sources(name):
    standard = load_standard(name)
    assert {"waits", "clocks", "energy"} <= set(standard.sources)
    for grade in standard.grades:
        for organisation in standard.organisations:
            channel = load_part(name, grade, organisation).channel()
            assert channel.refresh_interval > 0
            assert channel.units * standard.burst_bytes >= 2**28


@pytest.mark.parametrize(
    ("name", "bytes_per_s"),
    [
        ("HBM2_2000_8Gb", 2e9 * 128 / 8), ("HBM3_6400_16Gb_8hi", 6.4e9 * 64 / 8),
        ("HBM4_8000_32Gb_8Hi", 8e9 * 64 / 8), ("DDR4_3200AA_8Gb_x8", 3.2e9 * 64 / 8),
        ("DDR5_4800BN_16Gb_x8", 4.8e9 * 32 / 8), ("LPDDR5_6400_16Gb_x16", 6.4e9 * 16 / 8),
        ("GDDR6_14000_8Gb_x16", 14e9 * 16 / 8),
    ],
)  # fmt: skip
def test_peak_is_pins_times_rate(name, bytes_per_s):
    assert named_part(name).peak_bytes_per_s == pytest.approx(bytes_per_s, rel=0.003)


def test_a_wrong_name_gets_the_nearest_one():
    with pytest.raises(ConfigError, match="HBM3_6400_16Gb_8hi"):
        named_part("HBM3_6400_16Gb_8hj")
    with pytest.raises(ConfigError, match="did you mean 'hbm4'"):
        load_standard("hbm44")
    with pytest.raises(ConfigError, match="speed grade"):
        load_part("hbm3", "HBM3_640")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('HBM3_x,"(1, 2, 1, 4, 4, 16384)",625,2', "seven positive integers"),
        ('HBM3_x,"(1, 2, 1, 4, 4, 16384, a)",625,2', "seven integers"),
        ('HBM3_x,"(1, 2, 1, 4, 4, 16384, 32)",625,2', "unknown timing"),
        ('XYZ_1,"(1, 2, 1, 4, 4, 16384, 32)",625,2', "unknown DRAM part"),
        ('HBM3_x,"(1, 2, 1, 4, 4, 16384, 32)",soon,2', "numbers"),
    ],
)
def test_a_broken_row_of_timings_is_refused_with_its_line(tmp_path, row, message):
    path = tmp_path / "timings.csv"
    path.write_text(HEADER + row + "\n")
    with pytest.raises(ConfigError, match=message) as error:
        read_timings(path)
    assert ":2" in str(error.value)


def test_a_new_standard_is_a_file(tmp_path):
    path = tmp_path / "slow.yaml"
    path.write_text("from: hbm3\nstandard: SLOW3\nwaits: {bank: {ACT -> read: nRCDRD + nRCDRD}}\n")
    slow, plain = load_part(str(path)), load_part("hbm3")
    assert slow.channel() != plain.channel()
    assert slow.channel().n_banks == plain.channel().n_banks


@pytest.mark.parametrize(
    "waits", ["{bank: {ACT > read: nRP}}", "{bank: {ACX -> read: nRP}}", "{floor: {ACT -> read: nRP}}",
              "{bank: {ACT -> read: nRP * 2}}", "{bank: {ACT -> read: nXX}}"],
)  # fmt: skip
def test_a_wait_that_is_not_understood_is_refused(tmp_path, waits):
    path = tmp_path / "broken.yaml"
    path.write_text(f"from: hbm3\nstandard: B\nwaits: {waits}\n")
    with pytest.raises(ConfigError):
        load_part(str(path)).channel()


@pytest.mark.parametrize("name", names())
def test_a_standard_alone_is_its_usual_part(name):
    assert named_part(name.upper()) == load_part(name)
