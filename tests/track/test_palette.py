"""Colours of cells: a variant's own everywhere, and each cell's own where colour alone tells cells apart."""

from deltalab.spec import load
from deltalab.track.palette import HUES, VARIANTS, tints


def factors_of(**levels: list[str]) -> dict[str, dict[str, dict[str, object]]]:
    return {factor: {level: {} for level in names} for factor, names in levels.items()}


def test_every_shipped_variant_has_a_colour_and_a_line_of_its_own() -> None:
    shipped = {path.stem for path in (load.CONF / "variant").glob("*.yaml")}
    assert set(VARIANTS) == shipped
    assert len(set(VARIANTS.values())) == len(VARIANTS)


def test_a_variant_has_its_colour_in_whatever_study() -> None:
    names = ["delta_net", "kda", "gated_delta_net_2"]
    for order in (names, names[::-1]):
        found = dict(zip(order, tints(factors_of(variant=order), [{"variant": name} for name in order]), strict=True))
        assert found == {"gated_delta_net_2": HUES[0], "kda": HUES[1], "delta_net": HUES[3]}


def test_levels_of_another_factor_are_tints_of_the_variant_s_colour() -> None:
    factors = factors_of(pattern=["recurrent", "hybrid"], variant=["kda", "delta_net"])
    cells = [{"variant": v, "pattern": p} for v in factors["variant"] for p in factors["pattern"]]
    found = tints(factors, cells)
    assert (found[0], found[2]) == (HUES[1], HUES[3])
    assert len(set(found)) == 4
    assert all(int(light[1:3], 16) > int(dark[1:3], 16) for dark, light in (found[:2], found[2:]))


def test_thirty_cells_of_three_factors_are_thirty_colours() -> None:
    cells = [{"a": a, "b": b, "c": c} for a in "01234" for b in "012" for c in "01"]
    assert len(set(tints(factors_of(a=list("01234"), b=list("012"), c=list("01")), cells))) == 30
