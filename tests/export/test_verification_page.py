"""The page: self-contained, well-formed, and true whatever the numbers are."""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
from tfgpt_export.page import verification_html
from tfgpt_export.plots import Bar, bars, histogram, lines
from tfgpt_export.report import is_judged


@pytest.fixture(scope="module")
def report(exported):
    return json.loads((exported.output / "verification.json").read_text())


def svgs(page):
    return [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, flags=re.S)]


def test_the_page_needs_nothing_else(exported):
    page = (exported.output / "verification.html").read_text(encoding="utf-8")
    assert not re.search(r"<script|https?://|<link|@import|url\(", page)
    assert "prefers-color-scheme: dark" in page and "@media print" in page


def test_every_artifact_is_in_every_plot(exported, report):
    page = verification_html(report)
    pictures = svgs(page)
    names = set(exported.files)
    by_label = {picture.get("aria-label"): picture for picture in pictures}
    for label in (
        "difference by layer",
        "KL divergence",
        "change of perplexity",
        "other first choices",
        "sizes",
    ):
        classes = {kind for each in by_label[label].iter() for kind in each.get("class", "").split()}
        assert names <= classes, label
    histograms = [each for each in pictures if each.get("aria-label") == "first other token"]
    assert len(histograms) == sum(entry["kind"] == "generation" for entry in report["artifacts"])
    judged = sum(is_judged(entry) for entry in report["artifacts"])
    assert page.count("<td class=good>passed</td>") == judged > len(names)
    assert page.count("<td class=skipped>reported</td>") == len(report["artifacts"]) - judged > 0
    assert "GroupQueryAttention" in page


def test_failures_and_what_was_left_out_are_told(report):
    entry = {**report["artifacts"][0], "failures": ["fp32: <wrong> & so on"]}
    failed = {
        **report,
        "passed": False,
        "failures": entry["failures"],
        "artifacts": [entry],
        "skipped": ["a client"],
    }
    page = verification_html(failed)
    assert "fp32: &lt;wrong&gt; &amp; so on" in page and "not compared: a client" in page
    assert 'class="verdict bad"' in page and "<td class=bad>missed</td>" in page


def test_an_export_that_was_not_verified_says_so(report):
    page = verification_html({**report, "verified": False, "passed": False, "artifacts": []})
    assert "Not verified" in page and 'class="verdict off"' in page


def test_plots_take_any_numbers():
    strange = [0.0, 1e-30, 1.0, float("inf"), float("nan")]
    pictures = [
        lines({"fp32": strange, "int8": [1e-8] * 5}, list("abcde"), 1e-4, "x"),
        bars([Bar("fp32", "fp32", 0.0, "0"), Bar("int8", "int8", 0.0, "0", 0.1)], "x"),
        bars([Bar("fp32", "<&>", 3.0, "<3>")], "x"),
        histogram([0, 0, 0], "fp32", "x"),
    ]
    for picture in pictures:
        ElementTree.fromstring(picture)
        assert "nan" not in re.sub(r"<title>.*?</title>", "", picture).lower()
