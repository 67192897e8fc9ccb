from __future__ import annotations

from leakline.analysis.kmemleak_findings import kmemleak_report
from leakline.formats.kmemleak import parse_kmemleak
from leakline.model.finding import KindTotal
from tests.unit.test_kmemleak import FIXTURES, OLDER


def test_findings_about_the_kernel() -> None:
    text = parse_kmemleak((FIXTURES / "6.12-uml/kmemleak").read_bytes() + OLDER)
    report = kmemleak_report(text)
    assert report.target is None
    assert report.summary.definite == KindTotal(bytes=4 * 256 + 512, blocks=5)
    driver, module = report.findings
    assert [f.location and f.location.function for f in report.findings] == ["leak_one_kmalloc", "init_module"]
    assert (driver.bytes, driver.blocks, driver.confidence) == (1024, 4, "medium")
    assert driver.evidence[0].text == "kmemleak found no pointer to any of the 4 objects, which uml-init.sh (1) allocated"
    x86 = kmemleak_report(parse_kmemleak((FIXTURES / "6.12-x86/kmemleak").read_bytes())).findings[0]
    assert x86.location is not None
    assert x86.location.function == "leak_one_kmalloc"
    assert module.stack[1].address == 0xFFFFFFFFC0345010
